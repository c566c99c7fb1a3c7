//! Traces: what a start touched, in what order and when, so that a later one has it fetched ahead.
//!
//! A trace is a JSON object. It speaks of bytes of layers' plain streams rather than of spans, so
//! that it stays true for every archive of the image:
//!
//! ```json
//! {"version": 1, "starts": 1, "sources": ["sha256:...", "data"], "touches": [[0, 0, 4194304, 12, 1]]}
//! ```
//!
//! A touch is: the index of its source (`data` is a v1 archive's), the first byte, the number of
//! bytes, milliseconds after the beginning of the mount, in how many starts.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// The longest trace that is read, in bytes.
pub const MAX_BYTES: usize = 8 << 20;
/// The most touches of a trace.
const MAX_TOUCHES: usize = 65_536;
/// The most sources of a trace.
const MAX_SOURCES: usize = 1024;
/// What touches of a v1 archive's data call their source.
const DATA: &str = "data";

/// What starts of an image have touched.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trace {
    /// How many starts it tells of.
    starts: u32,
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

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    starts: u32,
    sources: Vec<String>,
    touches: Vec<(usize, u64, u64, u64, u32)>,
}

impl Trace {
    /// The trace of one start: of each touch the layer, or `None` for the data of a v1 archive, the
    /// bytes, and how long after the beginning it was.
    pub fn of(touches: impl IntoIterator<Item = (Option<Digest>, Range<u64>, Duration)>) -> Self {
        let touches = touches.into_iter().take(MAX_TOUCHES).map(|(layer, bytes, at)| {
            let (start, length) = (bytes.start, bytes.end.saturating_sub(bytes.start));
            let at = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
            (Place { layer, start, length }, Seen { at, starts: 1 })
        });
        Self { starts: 1, touches: touches.collect() }
    }

    /// Reads a trace.
    pub fn parse(text: &[u8]) -> Result<Self, InvalidTrace> {
        let invalid = |detail: String| InvalidTrace(detail);
        if text.len() > MAX_BYTES {
            return Err(invalid(format!("it has {} bytes of at most {MAX_BYTES}", text.len())));
        }
        let document: Document =
            serde_json::from_slice(text).map_err(|error| invalid(error.to_string()))?;
        let Document { version, starts, sources, touches } = document;
        if version != 1 {
            return Err(invalid(format!("expected version 1, found {version}")));
        }
        if sources.len() > MAX_SOURCES || touches.len() > MAX_TOUCHES {
            let (sources, touches) = (sources.len(), touches.len());
            return Err(invalid(format!(
                "it has {sources} sources of at most {MAX_SOURCES}, {touches} touches of at most \
                 {MAX_TOUCHES}"
            )));
        }
        let layer = |text: &String| match text.as_str() {
            DATA => Ok(None),
            text => text.parse().map(Some).map_err(|error| invalid(format!("{error}"))),
        };
        let sources: Vec<Option<Digest>> = sources.iter().map(layer).collect::<Result<_, _>>()?;
        let mut known = BTreeMap::new();
        for (source, start, length, at, in_starts) in touches {
            let Some(layer) = sources.get(source) else {
                return Err(invalid(format!("there is no source {source}")));
            };
            if start.checked_add(length).is_none() || in_starts == 0 || in_starts > starts {
                return Err(invalid(format!(
                    "a touch of {length} bytes at {start} in {in_starts} of {starts} starts"
                )));
            }
            let place = Place { layer: *layer, start, length };
            known.insert(place, Seen { at, starts: in_starts });
        }
        Ok(Self { starts, touches: known })
    }

    /// Writes it so that [`Self::parse`] reads it.
    pub fn to_json(&self) -> String {
        let mut sources: Vec<Option<Digest>> = Vec::new();
        let mut ordered: Vec<_> = self.touches.iter().collect();
        ordered.sort_by_key(|(_, seen)| seen.at);
        let touches = ordered.into_iter().map(|(place, seen)| {
            let source = sources.iter().position(|known| *known == place.layer);
            let source = source.unwrap_or_else(|| {
                sources.push(place.layer);
                sources.len() - 1
            });
            (source, place.start, place.length, seen.at, seen.starts)
        });
        let touches = touches.collect();
        let name = |source: &Option<Digest>| match source {
            Some(layer) => layer.to_string(),
            None => DATA.to_owned(),
        };
        let sources = sources.iter().map(name).collect();
        let document = Document { version: 1, starts: self.starts, sources, touches };
        // Numbers and texts: that can't fail.
        serde_json::to_string(&document).unwrap_or_default()
    }

    /// Takes what another trace of the image tells in.
    pub fn merge(&mut self, other: &Self) {
        self.starts = self.starts.saturating_add(other.starts);
        let mut sources: BTreeSet<_> = self.touches.keys().map(|place| place.layer).collect();
        for (place, seen) in &other.touches {
            if !self.touches.contains_key(place) {
                // What is too much for a trace is left out.
                if self.touches.len() >= MAX_TOUCHES
                    || sources.len() >= MAX_SOURCES && !sources.contains(&place.layer)
                {
                    continue;
                }
                sources.insert(place.layer);
            }
            let mine = self.touches.entry(place.clone()).or_insert(Seen { at: 0, starts: 0 });
            let (a, b) = (u128::from(mine.starts), u128::from(seen.starts));
            let at = u128::from(mine.at) * a + u128::from(seen.at) * b;
            mine.at = u64::try_from(at / (a + b).max(1)).unwrap_or(u64::MAX);
            mine.starts = mine.starts.saturating_add(seen.starts);
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
        let expected = format!(
            r#"{{"version":1,"starts":1,"sources":["data","{a}"],"touches":[[0,0,10,2,1],[1,0,10,3,1],[1,5,10,9,1]]}}"#
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
    fn what_is_none_is_refused() {
        for bad in [
            "",
            "[]",
            r#"{"version":2,"starts":1,"sources":[],"touches":[]}"#,
            r#"{"version":1,"starts":1,"sources":["sha256:no"],"touches":[]}"#,
            r#"{"version":1,"starts":1,"sources":["data"],"touches":[[1,0,10,0,1]]}"#,
            r#"{"version":1,"starts":1,"sources":["data"],"touches":[[0,18446744073709551615,1,0,1]]}"#,
            r#"{"version":1,"starts":1,"sources":["data"],"touches":[[0,0,1,0,2]]}"#,
            r#"{"version":1,"starts":1,"sources":["data"],"touches":[[0,0,1,0,0]]}"#,
            r#"{"version":1,"starts":1,"sources":[],"touches":[],"more":1}"#,
        ] {
            assert!(Trace::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        let long = vec![b' '; MAX_BYTES + 1];
        assert!(Trace::parse(&long).unwrap_err().to_string().contains("at most"));
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
