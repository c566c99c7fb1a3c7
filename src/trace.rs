//! Traces: what starts of an image touched, in what order and when, so that a later one has it fetched
//! ahead.
//!
//! A trace is a JSON object, in a file as over HTTP. It speaks of bytes of layers' plain streams rather
//! than of spans, so that it stays true for every archive of the image:
//!
//! ```json
//! {"version": 1, "starts": 1, "sources": [
//!   {"layer": "sha256:...", "touches": [{"start": 0, "length": 4194304, "ms": 12, "starts": 1}]}]}
//! ```
//!
//! A source without a layer is the data of a v1 archive.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::digest::Digest;

/// The longest trace that is read, in bytes.
pub const MAX_BYTES: usize = 1 << 20;
/// The most touches of a trace.
pub const MAX_TOUCHES: usize = 8192;
/// The most starts that a trace tells of: what was long ago counts ever less.
pub const MAX_STARTS: u32 = 64;
/// No layer is longer, and whoever reads JSON knows all numbers up to here.
const MAX_NUMBER: u64 = 1 << 53;

/// What starts of an image have touched.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trace {
    /// How many starts it tells of, at most [`MAX_STARTS`].
    starts: u32,
    /// At most [`MAX_TOUCHES`].
    touches: BTreeMap<Place, Seen>,
}

/// Bytes of a layer, or of a v1 archive's data.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    layer: Option<Digest>,
    start: u64,
    length: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    /// Milliseconds, on the average.
    at: u64,
    starts: u32,
}

/// Why bytes are not a trace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a trace: {0}")]
pub struct InvalidTrace(String);

/// What starts of an image have touched.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Trace, example = json!({"version": 1, "starts": 1, "sources": [{
    "layer": "sha256:24f7f4bb0a5b6a6e2e0d28c7a4d4f6a0b6f1a5e4c3d2b1a09f8e7d6c5b4a3928",
    "touches": [{"start": 0, "length": 4_194_304, "ms": 12, "starts": 1}],
}]}))]
pub struct TraceDocument {
    #[schema(minimum = 1, maximum = 1)]
    version: u32,
    /// How many starts it tells of.
    #[schema(minimum = 0, maximum = 64)]
    starts: u32,
    /// Where what was touched is: 8192 touches in all.
    #[schema(max_items = 1024)]
    sources: Vec<SourceDocument>,
}

/// Touches of one layer.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TraceSource)]
struct SourceDocument {
    /// Its digest; absent for the data of a v1 archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, pattern = "^sha256:[0-9a-f]{64}$")]
    layer: Option<Digest>,
    #[schema(max_items = 8192)]
    touches: Vec<TouchDocument>,
}

/// Bytes that were read for the first time.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TraceTouch)]
struct TouchDocument {
    /// The first one, in the uncompressed stream.
    #[schema(minimum = 0, maximum = 9_007_199_254_740_992_i64)]
    start: u64,
    /// How many.
    #[schema(minimum = 0, maximum = 9_007_199_254_740_992_i64)]
    length: u64,
    /// Milliseconds after the beginning of the mount, on the average.
    #[schema(minimum = 0, maximum = 9_007_199_254_740_992_i64)]
    ms: u64,
    /// In how many of the starts.
    #[schema(minimum = 1, maximum = 64)]
    starts: u32,
}

impl TryFrom<TraceDocument> for Trace {
    type Error = InvalidTrace;

    fn try_from(document: TraceDocument) -> Result<Self, InvalidTrace> {
        let TraceDocument { version, starts, sources } = document;
        let invalid = |detail| Err(InvalidTrace(detail));
        if version != 1 {
            return invalid(format!("expected version 1, found {version}"));
        }
        if starts > MAX_STARTS {
            return invalid(format!("expected at most {MAX_STARTS} starts, found {starts}"));
        }
        let count: usize = sources.iter().map(|source| source.touches.len()).sum();
        if count > MAX_TOUCHES {
            return invalid(format!("expected at most {MAX_TOUCHES} touches, found {count}"));
        }
        let mut touches = BTreeMap::new();
        for SourceDocument { layer, touches: of_layer } in sources {
            for TouchDocument { start, length, ms, starts: seen } in of_layer {
                if start.max(length).max(ms) > MAX_NUMBER || !(1..=MAX_STARTS).contains(&seen) {
                    let found = format!("{length} bytes at {start}, {ms} ms, {seen} starts");
                    return invalid(format!("a number is too large or 0: {found}"));
                }
                let place = Place { layer, start, length };
                // It can't have been in more starts than there were.
                if let Some(starts) = Some(seen.min(starts)).filter(|starts| *starts > 0) {
                    touches.insert(place, Seen { at: ms, starts });
                }
            }
        }
        Ok(Self { starts, touches })
    }
}

impl From<&Trace> for TraceDocument {
    fn from(trace: &Trace) -> Self {
        let mut sources: Vec<SourceDocument> = Vec::new();
        for (Place { layer, start, length }, seen) in &trace.touches {
            let touch =
                TouchDocument { start: *start, length: *length, ms: seen.at, starts: seen.starts };
            match sources.last_mut() {
                Some(source) if source.layer == *layer => source.touches.push(touch),
                _ => sources.push(SourceDocument { layer: *layer, touches: vec![touch] }),
            }
        }
        Self { version: 1, starts: trace.starts, sources }
    }
}

impl Trace {
    /// The trace of one start: of each touch the layer, or `None` for the data of a v1 archive, the
    /// bytes, and how long after the beginning it was. What is too much for a trace is left out.
    pub fn of(touches: impl IntoIterator<Item = (Option<Digest>, Range<u64>, Duration)>) -> Self {
        let touches = touches.into_iter().take(MAX_TOUCHES).map(|(layer, bytes, at)| {
            let (start, length) = (bytes.start, bytes.end.saturating_sub(bytes.start));
            let at = u64::try_from(at.as_millis()).unwrap_or(u64::MAX).min(MAX_NUMBER);
            (Place { layer, start, length }, Seen { at, starts: 1 })
        });
        Self { starts: 1, touches: touches.collect() }
    }

    /// Reads a trace.
    pub fn parse(text: &[u8]) -> Result<Self, InvalidTrace> {
        if text.len() > MAX_BYTES {
            let length = text.len();
            return Err(InvalidTrace(format!("it has {length} bytes of at most {MAX_BYTES}")));
        }
        let document: TraceDocument =
            serde_json::from_slice(text).map_err(|error| InvalidTrace(error.to_string()))?;
        document.try_into()
    }

    /// Writes it so that [`Self::parse`] reads it.
    pub fn to_json(&self) -> String {
        // Numbers and texts: that can't fail.
        serde_json::to_string(&TraceDocument::from(self)).unwrap_or_default()
    }

    /// Takes what another trace of the image tells in. What is too much for a trace is left out: of
    /// starts that were long ago, and of touches that few starts have.
    pub fn merge(&mut self, other: &Self) {
        self.starts = self.starts.saturating_add(other.starts);
        for (place, seen) in &other.touches {
            let mine = self.touches.entry(place.clone()).or_insert(Seen { at: 0, starts: 0 });
            let (a, b) = (u128::from(mine.starts), u128::from(seen.starts));
            let at = u128::from(mine.at) * a + u128::from(seen.at) * b;
            mine.at = u64::try_from(at / (a + b).max(1)).unwrap_or(u64::MAX);
            mine.starts = mine.starts.saturating_add(seen.starts);
        }
        while self.starts > MAX_STARTS {
            self.starts /= 2;
            for seen in self.touches.values_mut() {
                seen.starts /= 2;
            }
            self.touches.retain(|_, seen| seen.starts > 0);
        }
        if self.touches.len() > MAX_TOUCHES {
            let mut least: Vec<_> =
                self.touches.iter().map(|(place, seen)| (seen.starts, place.clone())).collect();
            least.sort();
            for (_, place) in &least[..least.len() - MAX_TOUCHES] {
                self.touches.remove(place);
            }
        }
    }

    /// What to fetch, the most urgent first: the layer and the bytes of each. What few starts touch
    /// comes after what most do; what hardly any touches is left to its readers.
    pub fn order(&self) -> Vec<(Option<Digest>, Range<u64>)> {
        let rare = |seen: &Seen| u64::from(seen.starts) * 2 < u64::from(self.starts);
        let hardly = |seen: &Seen| u64::from(seen.starts) * 10 < u64::from(self.starts);
        let mut touches: Vec<_> = self.touches.iter().filter(|(_, seen)| !hardly(seen)).collect();
        touches.sort_by_key(|(_, seen)| (rare(seen), seen.at));
        let bytes = |place: &Place| (place.layer, place.start..place.start + place.length);
        touches.into_iter().map(|(place, _)| bytes(place)).collect()
    }

    /// How many starts it tells of.
    pub fn starts(&self) -> u32 {
        self.starts
    }

    /// When the last touch was.
    pub fn length(&self) -> Duration {
        let last = self.touches.values().map(|seen| seen.at).max();
        Duration::from_millis(last.unwrap_or(0))
    }

    /// How many touches it tells of.
    pub fn len(&self) -> usize {
        self.touches.len()
    }

    /// Whether it tells of none.
    pub fn is_empty(&self) -> bool {
        self.touches.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DATA: &str = "data";

    fn touch(layer: &str, start: u64, at: u64) -> (Option<Digest>, Range<u64>, Duration) {
        let layer = Some(Digest::of(layer.as_bytes())).filter(|_| layer != DATA);
        (layer, start..start + 10, Duration::from_millis(at))
    }

    fn starts(trace: &Trace) -> Vec<u64> {
        trace.order().into_iter().map(|(_, bytes)| bytes.start).collect()
    }

    #[test]
    fn comes_back_as_it_was() {
        let trace = Trace::of([touch("a", 5, 9), touch(DATA, 0, 2), touch("a", 0, 3)]);
        let json = trace.to_json();
        assert_eq!(Trace::parse(json.as_bytes()).unwrap(), trace);
        let a = Digest::of(b"a");
        let touch = |start, ms| format!(r#"{{"start":{start},"length":10,"ms":{ms},"starts":1}}"#);
        let expected = format!(
            r#"{{"version":1,"starts":1,"sources":[{{"touches":[{}]}},{{"layer":"{a}","touches":[{},{}]}}]}}"#,
            touch(0, 2),
            touch(0, 3),
            touch(5, 9),
        );
        assert_eq!(json, expected);
        assert_eq!((trace.len(), trace.length()), (3, Duration::from_millis(9)));
    }

    #[test]
    fn what_most_starts_touch_comes_first_and_what_hardly_any_does_not_at_all() {
        let mut merged = Trace::of([touch("a", 100, 50), touch("a", 200, 10), touch("a", 300, 1)]);
        merged.merge(&Trace::of([touch("a", 200, 20), touch("a", 100, 70)]));
        assert_eq!(starts(&merged), [300, 200, 100]);
        merged.merge(&Trace::of([touch("a", 200, 30)]));
        assert_eq!(starts(&merged), [200, 100, 300]);
        for _ in 0..8 {
            merged.merge(&Trace::of([touch("a", 200, 30)]));
        }
        assert_eq!(starts(&merged), [200, 100]);
        assert_eq!(Trace::parse(merged.to_json().as_bytes()).unwrap(), merged);
    }

    #[test]
    fn what_was_long_ago_counts_ever_less() {
        let mut trace = Trace::of([touch("old", 0, 1), touch("kept", 0, 1)]);
        for _ in 0..2 * MAX_STARTS {
            trace.merge(&Trace::of([touch("kept", 0, 1)]));
            assert!(trace.starts() <= MAX_STARTS);
        }
        assert_eq!(trace.len(), 1, "{trace:?}");
        assert_eq!(trace.touches.values().next().unwrap().starts, trace.starts());
    }

    #[test]
    fn of_too_many_touches_those_of_most_starts_stay() {
        let touches = |from: u64, count: u64| (from..from + count).map(|n| touch("a", n * 10, 0));
        let mut trace = Trace::of(touches(0, 8000));
        trace.merge(&Trace::of(touches(0, 1000)));
        trace.merge(&Trace::of(touches(100_000, 8000)));
        assert_eq!(trace.len(), MAX_TOUCHES);
        assert_eq!(trace.touches.values().filter(|seen| seen.starts == 2).count(), 1000);
        assert!(trace.to_json().len() < MAX_BYTES);
        assert_eq!(Trace::parse(trace.to_json().as_bytes()).unwrap(), trace);
        assert_eq!(Trace::of(touches(0, 10_000)).len(), MAX_TOUCHES);
    }

    #[test]
    fn what_is_none_is_refused() {
        let layer = Digest::of(b"a");
        let touch = |touch: &str| {
            format!(
                r#"{{"version":1,"starts":1,"sources":[{{"layer":"{layer}","touches":[{touch}]}}]}}"#
            )
        };
        let good = touch(r#"{"start":0,"length":1,"ms":0,"starts":1}"#);
        assert_eq!(Trace::parse(good.as_bytes()).unwrap().len(), 1);
        for bad in [
            "",
            "[]",
            r#"{"version":2,"starts":1,"sources":[]}"#,
            r#"{"version":1,"starts":65,"sources":[]}"#,
            r#"{"version":1,"starts":1,"sources":[{"layer":"sha256:no","touches":[]}]}"#,
            r#"{"version":1,"starts":1,"sources":[],"more":1}"#,
            &touch(r#"{"start":18446744073709551615,"length":1,"ms":0,"starts":1}"#),
            &touch(r#"{"start":0,"length":1,"ms":0,"starts":0}"#),
            &touch(r#"{"start":0,"length":1,"ms":0,"starts":65}"#),
            &touch(r#"{"start":-1,"length":1,"ms":0,"starts":1}"#),
            &touch(r#"{"start":0,"length":1,"ms":0}"#),
        ] {
            assert!(Trace::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        let long = vec![b' '; MAX_BYTES + 1];
        assert!(Trace::parse(&long).unwrap_err().to_string().contains("at most"));
        let mut many = vec![r#"{"start":0,"length":1,"ms":0,"starts":1}"#; MAX_TOUCHES];
        assert!(Trace::parse(touch(&many.join(",")).as_bytes()).is_ok());
        many.push(many[0]);
        assert!(Trace::parse(touch(&many.join(",")).as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_trace_or_none(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Trace::parse(&text);
        }

        #[test]
        fn any_traces_merge(
            a in prop::collection::vec((0..4_u64, 0..1000_u64), 0..20),
            b in prop::collection::vec((0..4_u64, 0..1000_u64), 0..20),
        ) {
            let trace = |touches: &[(u64, u64)]| {
                Trace::of(touches.iter().map(|(start, at)| touch("a", *start, *at)))
            };
            let mut merged = trace(&a);
            merged.merge(&trace(&b));
            prop_assert_eq!(&Trace::parse(merged.to_json().as_bytes()).unwrap(), &merged);
            // All that either of two starts has touched is fetched.
            prop_assert_eq!(merged.order().len(), merged.len());
        }
    }
}
