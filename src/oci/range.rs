//! Parts of blobs: what the answer to a `Range` request holds, and the bytes cut out of it.
//!
//! Registries and the storage behind them spell `Content-Range` in many ways, leave it out, or send
//! other bytes than were asked for (RFC 9110 sections 14.4 and 15.3.7 foresee the shorter ones
//! only). Whether the bytes are right a digest tells in the end; this tells where they belong.
//! It knows nothing of connections.

use std::fmt;
use std::ops::{Range, RangeInclusive};

use bytes::Buf;
use futures_util::stream::{StreamExt, TryStreamExt, try_unfold};

use crate::oci::blob::Body;

/// How a part of a blob is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// By a `Range` request. The bytes may be others: only a digest of theirs can tell.
    Range,
    /// By reading the blob from its start and dropping what is before the part. Slow, and the last
    /// resort where ranges are answered wrongly.
    FromStart,
}

/// How requests for ranges are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ranges {
    /// None was made yet.
    Unknown = 0,
    /// By the range that was asked for, which the answer states.
    Honoured = 1,
    /// By the whole blob, or by bytes of which is not said which they are.
    Ignored = 2,
}

/// What the head of an answer says of its body.
#[derive(Debug)]
pub(super) struct Head<'a> {
    /// Whether the status is 206.
    pub(super) partial: bool,
    /// The header as it is.
    pub(super) content_range: Option<&'a str>,
    pub(super) content_type: Option<&'a str>,
    pub(super) content_length: Option<u64>,
}

impl Head<'_> {
    /// Whether the body is a range of which is said which it is.
    pub(super) fn states_range(&self) -> bool {
        self.partial && self.content_range.and_then(parse).is_some()
    }

    /// The blob's byte that the body begins with, when `asked` was asked for of a blob of `size`
    /// bytes. `None`: the body does not hold the first byte that was asked for.
    pub(super) fn start(&self, asked: &Range<u64>, size: u64) -> Option<u64> {
        if self.content_type.is_some_and(|kind| starts_with(kind, "multipart/")) {
            return None;
        }
        let stated = self.content_range.and_then(parse);
        match (stated, self.content_length) {
            // Longer than it says: one of the two is wrong.
            (Some(stated), Some(length)) if length > stated.end() - stated.start() + 1 => None,
            (Some(stated), _) => stated.contains(&asked.start).then_some(*stated.start()),
            (None, Some(length)) if length == size => Some(0),
            (None, None) if !self.partial => Some(0),
            (None, Some(length)) if !self.partial || length > asked.end - asked.start => None,
            (None, _) => Some(asked.start),
        }
    }
}

/// For people.
impl fmt::Display for Head<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.content_range {
            Some(range) => {
                let shown: String = range.chars().filter(|c| !c.is_control()).take(100).collect();
                f.write_str(&shown)?;
            }
            None => f.write_str("no Content-Range")?,
        }
        self.content_length.map_or(Ok(()), |length| write!(f, " with {length} bytes"))
    }
}

/// First and last byte of a `Content-Range`. The total is not looked at: it may be missing.
fn parse(text: &str) -> Option<RangeInclusive<u64>> {
    let text = text.trim();
    let rest = if starts_with(text, "bytes") { &text["bytes".len()..] } else { text };
    let rest = rest.trim_start_matches([' ', '\t', '=', ':']);
    let range = rest.split('/').next().unwrap_or_default();
    let (first, last) = range.split_once('-')?;
    let [first, last] = [first, last].map(|number| {
        let number = number.trim();
        let digits = number.bytes().all(|byte| byte.is_ascii_digit());
        number.parse::<u64>().ok().filter(|_| digits)
    });
    let range = first?..=last?;
    // Its length must be a number too.
    (!range.is_empty() && *range.end() < u64::MAX).then_some(range)
}

fn starts_with(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// `length` bytes of a body, or fewer where it ends early, from behind its first `skipped`.
pub(super) fn part(body: Body, skipped: u64, length: u64) -> Body {
    try_unfold((body, skipped, length), async |(mut body, mut skipped, mut left)| {
        while left > 0 {
            let Some(mut chunk) = body.try_next().await? else { break };
            let before = least(chunk.len(), skipped);
            chunk.advance(before);
            skipped -= before as u64;
            chunk.truncate(least(chunk.len(), left));
            left -= chunk.len() as u64;
            if !chunk.is_empty() {
                return Ok(Some((chunk, (body, skipped, left))));
            }
        }
        Ok(None)
    })
    .boxed()
}

fn least(count: usize, limit: u64) -> usize {
    usize::try_from(limit).map_or(count, |limit| limit.min(count))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::stream;
    use proptest::prelude::*;

    use super::*;

    const SIZE: u64 = 1000;

    fn start(content_range: Option<&str>, content_length: Option<u64>) -> Option<u64> {
        let head = Head { partial: true, content_range, content_type: None, content_length };
        head.start(&(100..200), SIZE)
    }

    #[test]
    fn every_spelling() {
        for text in [
            "bytes 100-199/1000",
            "Bytes 100-199/1000",
            "BYTES 100-199/*",
            "bytes=100-199/1000",
            "bytes: 100-199/1000",
            "bytes  100 - 199 / 1000",
            "bytes\t100-199",
            "bytes 100-199/",
            "100-199/1000",
            "bytes=100-199",
            // The total is nobody's business: the digest decides.
            "bytes 100-199/7",
            "bytes 100-100/1000",
        ] {
            assert_eq!(start(Some(text), None), Some(100), "{text}");
        }
        for text in [
            "",
            "bytes",
            "bytes */1000",
            "bytes 199-100/1000",
            "bytes -100",
            "items",
            "bytes 100-",
            "bytes +100-+199/1000",
            "bytes 0-18446744073709551615/*",
            "é",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn where_the_body_begins() {
        // It says so: before the part, or elsewhere.
        assert_eq!(start(Some("bytes 0-999/1000"), None), Some(0));
        assert_eq!(start(Some("bytes 90-150/1000"), Some(61)), Some(90));
        assert_eq!(start(Some("bytes 0-99/1000"), None), None);
        assert_eq!(start(Some("bytes 101-199/1000"), None), None);
        // A short one, and one that is longer than it says.
        assert_eq!(start(Some("bytes 100-199/1000"), Some(10)), Some(100));
        assert_eq!(start(Some("bytes 100-199/1000"), Some(1000)), None);
        // It doesn't say: the length gives the whole blob away.
        assert_eq!(start(None, Some(100)), Some(100));
        assert_eq!(start(None, Some(7)), Some(100));
        assert_eq!(start(None, None), Some(100));
        assert_eq!(start(None, Some(SIZE)), Some(0));
        assert_eq!(start(None, Some(101)), None);
    }

    #[test]
    fn whole_answers() {
        let whole = |content_range, content_length| {
            let head = Head { partial: false, content_range, content_type: None, content_length };
            head.start(&(100..200), SIZE)
        };
        assert_eq!(whole(None, Some(SIZE)), Some(0));
        assert_eq!(whole(None, None), Some(0));
        assert_eq!(whole(None, Some(100)), None);
        // Honoured, but answered 200.
        assert_eq!(whole(Some("bytes 100-199/1000"), Some(100)), Some(100));
    }

    #[test]
    fn several_parts_in_one_body_are_not_read() {
        let content_type = Some("Multipart/byteranges; boundary=x");
        let content_range = Some("bytes 100-199/1000");
        let head = Head { partial: true, content_range, content_type, content_length: None };
        assert_eq!(head.start(&(100..200), SIZE), None);
    }

    #[tokio::test]
    async fn cuts_across_chunks() {
        let content = b"the quick brown fox jumps over the lazy dog";
        for (skipped, length) in [(0, 43), (0, 5), (3, 1), (5, 5), (12, 31), (12, 99), (43, 1)] {
            let body = stream::iter(content.chunks(5).map(|c| Ok(Bytes::from_static(c)))).boxed();
            let chunks: Vec<Bytes> =
                part(body, skipped as u64, length as u64).try_collect().await.unwrap();
            assert!(chunks.iter().all(|chunk| !chunk.is_empty()));
            let end = content.len().min(skipped + length);
            assert_eq!(chunks.concat(), content[skipped..end], "{skipped}+{length}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// Whatever is said, the body is never placed behind the first byte asked for, and never
        /// where it would end before that byte.
        #[test]
        fn never_beyond_what_is_needed(
            text in proptest::option::of("(bytes[ =]{0,2})?[0-9]{0,20} ?-? ?[0-9]{0,20}(/[0-9*]{0,6})?"),
            content_length in proptest::option::of(0..2 * SIZE),
            partial: bool,
            offset in 0..SIZE - 1,
        ) {
            let content_range = text.as_deref();
            let head = Head { partial, content_range, content_type: None, content_length };
            if let Some(start) = head.start(&(offset..SIZE), SIZE) {
                prop_assert!(start <= offset);
                if let Some(stated) = content_range.and_then(parse) {
                    prop_assert!(stated.contains(&offset));
                    prop_assert_eq!(start, *stated.start());
                }
            }
        }

        #[test]
        fn never_panics(text in any::<String>()) {
            let _ = parse(&text);
        }
    }
}
