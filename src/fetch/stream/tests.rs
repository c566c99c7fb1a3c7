use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use wiremock::matchers::any;
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate};

use super::*;
use crate::fetch::Budget;
use crate::oci::{Credentials, ImageSource, OciSettings, Reference};
use crate::retry::RetrySettings;

/// How a registry answers requests for ranges.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Manner {
    Honours,
    /// 200 and everything.
    Ignores,
    /// 206, without a word on which bytes.
    IsSilent,
    /// Says 429 to the first few, then honours.
    IsBusy(usize),
    /// Gives no more than so many bytes at a time.
    IsShort(u64),
    /// Gives the first bytes whatever is asked for, and does not say so.
    Lies,
    /// Has only so many of the first bytes.
    Lacks(u64),
}

struct Registry {
    blob: Arc<Vec<u8>>,
    manner: Manner,
    requests: Arc<AtomicUsize>,
    ranges: Arc<Mutex<Vec<Range<u64>>>>,
}

impl Respond for Registry {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        let count = self.requests.fetch_add(1, Ordering::SeqCst);
        let size = self.blob.len() as u64;
        let asked = request.headers.get("range").map(|range| {
            let range = range.to_str().unwrap().strip_prefix("bytes=").unwrap();
            let (first, last) = range.split_once('-').unwrap();
            first.parse::<u64>().unwrap()..last.parse::<u64>().unwrap() + 1
        });
        self.ranges.lock().unwrap().push(asked.clone().unwrap_or(0..size));
        let Some(mut range) = asked.filter(|_| self.manner != Manner::Ignores) else {
            return ResponseTemplate::new(200).set_body_bytes(self.blob.to_vec());
        };
        match self.manner {
            Manner::IsBusy(times) if count < times => return ResponseTemplate::new(429),
            Manner::IsShort(most) => range.end = range.end.min(range.start + most),
            Manner::Lies => range = 0..range.end - range.start,
            Manner::Lacks(from) if range.end > from => return ResponseTemplate::new(404),
            _ => {}
        }
        let stated = format!("bytes {}-{}/{size}", range.start, range.end - 1);
        let part = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        let answer = ResponseTemplate::new(206).set_body_bytes(&self.blob[part]);
        if matches!(self.manner, Manner::IsSilent | Manner::Lies) {
            return answer;
        }
        // Some overtake others.
        let delay = Duration::from_millis([5, 0, 3, 1][count % 4]);
        answer.insert_header("content-range", stated.as_str()).set_delay(delay)
    }
}

struct Bench {
    source: Source,
    blob: Arc<Vec<u8>>,
    requests: Arc<AtomicUsize>,
    ranges: Arc<Mutex<Vec<Range<u64>>>>,
    budget: Budget,
    _server: MockServer,
}

/// Bytes that differ from place to place.
fn bytes(size: u64) -> Vec<u8> {
    let words = (0..size.div_ceil(8)).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    bytes[..usize::try_from(size).unwrap()].to_vec()
}

impl Bench {
    async fn new(size: u64, manner: Manner) -> Self {
        let (blob, requests, ranges) = (Arc::new(bytes(size)), Arc::default(), Arc::default());
        let registry = Registry {
            blob: Arc::clone(&blob),
            manner,
            requests: Arc::clone(&requests),
            ranges: Arc::clone(&ranges),
        };
        let server = MockServer::start().await;
        Mock::given(any()).respond_with(registry).mount(&server).await;
        let reference: Reference = format!("{}/r:t", server.address()).parse().unwrap();
        let retry = RetrySettings { base_delay: Duration::from_millis(1), ..Default::default() };
        let settings = OciSettings { retry, ..Default::default() };
        let image = ImageSource::Registry(reference);
        let source = Source::open(&image, &settings, Some(Credentials::Anonymous)).await.unwrap();
        Self { source, blob, requests, ranges, budget: Budget::new(2), _server: server }
    }

    fn digest(&self) -> Digest {
        Digest::of(&self.blob)
    }

    fn fetch(&self) -> BlobFetch {
        self.fetch_as(self.digest())
    }

    fn fetch_as(&self, digest: Digest) -> BlobFetch {
        let source = self.source.gated(self.budget.link(&self.source));
        let size = self.blob.len() as u64;
        BlobFetch::start(&source, self.budget.room(), digest, size, &CancellationToken::new())
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn read(mut fetch: BlobFetch) -> Result<Vec<u8>, OciError> {
    fetch.widen();
    let mut all = Vec::new();
    while let Some(chunk) = fetch.next().await {
        all.extend_from_slice(&chunk?.bytes);
    }
    Ok(all)
}

#[tokio::test]
async fn ranges_come_whole_and_in_order() {
    for size in [0, 1, RANGE - 1, RANGE, RANGE + 1, 5 * RANGE + 7] {
        let bench = Bench::new(size, Manner::Honours).await;
        assert!(read(bench.fetch()).await.unwrap() == *bench.blob, "{size} bytes");
        let mut asked = std::mem::take(&mut *bench.ranges.lock().unwrap());
        asked.sort_by_key(|range| range.start);
        let starts: Vec<u64> = (0..size).step_by(FIRST).collect();
        assert_eq!(asked.iter().map(|range| range.start).collect::<Vec<_>>(), starts);
    }
}

#[tokio::test]
async fn registries_without_ranges() {
    for (manner, requests) in [(Manner::Ignores, 2), (Manner::IsSilent, 2), (Manner::Lies, 2)] {
        let bench = Bench::new(6 * RANGE, manner).await;
        assert!(read(bench.fetch()).await.unwrap() == *bench.blob, "{manner:?}");
        assert_eq!(bench.requests(), requests, "{manner:?}: the first range, and all the rest");
        // Now it is known.
        assert!(read(bench.fetch()).await.unwrap() == *bench.blob, "{manner:?}");
        assert_eq!(bench.requests(), requests + 1, "{manner:?}");
    }
}

/// However much a blob could have of the room, and whether or not somebody reads.
#[tokio::test]
async fn a_blob_that_is_not_there_is_not_asked_for_range_by_range() {
    for (has, most) in [(0, 2), (RANGE, 2 * (OWN + SHARED) as u64 / RANGE)] {
        for reads in [false, true] {
            let bench = Bench::new(24 * RANGE, Manner::Lacks(has)).await;
            let mut fetch = bench.fetch();
            if reads {
                fetch.widen();
            }
            let mut last = None;
            while let Some(chunk) = fetch.next().await {
                last = chunk.err();
            }
            assert!(matches!(last, Some(OciError::BlobNotFound { .. })), "{last:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
            let requests = bench.requests() as u64;
            assert!(requests <= most + 1, "{has} bytes, {reads}: {requests} requests");
        }
    }
}

#[tokio::test]
async fn short_answers_are_continued() {
    let bench = Bench::new(3 * RANGE, Manner::IsShort(RANGE / 3)).await;
    assert!(read(bench.fetch()).await.unwrap() == *bench.blob);
}

#[tokio::test]
async fn a_busy_registry_is_asked_less() {
    let bench = Bench::new(8 * RANGE, Manner::IsBusy(4)).await;
    let link = bench.budget.link(&bench.source);
    let before = link.limit();
    assert!(read(bench.fetch()).await.unwrap() == *bench.blob);
    assert!(link.limit() < before, "{} of {before} connections", link.limit());
}

#[tokio::test]
async fn wrong_bytes_end_in_an_error() {
    let bench = Bench::new(3 * RANGE, Manner::Honours).await;
    let mut fetch = bench.fetch_as(Digest::of(b"others"));
    fetch.widen();
    let mut last = None;
    while let Some(chunk) = fetch.next().await {
        assert!(last.is_none(), "something after the error");
        last = chunk.err();
    }
    assert!(matches!(last, Some(OciError::DigestMismatch { .. })), "{last:?}");
}

/// Nobody reads: what is fetched is bounded; and another blob is read all the same.
#[tokio::test]
async fn what_runs_ahead_is_bounded_and_holds_nobody_up() {
    let room = (OWN + SHARED) as u64;
    let bench = Bench::new(room + 4 * RANGE, Manner::Honours).await;
    let waiting = bench.fetch();
    let foremost = waiting.room.clone();
    while foremost.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    waiting.widen();
    while foremost.available_permits() > 0 || bench.budget.room().available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    assert!(read(bench.fetch()).await.unwrap() == *bench.blob);
    let ahead = room.div_ceil(RANGE) + bench.blob.len() as u64 / RANGE;
    assert_eq!(bench.requests() as u64, ahead);
    assert!(read(waiting).await.unwrap() == *bench.blob);
}

#[tokio::test]
async fn whoever_leaves_stops_the_fetching() {
    let bench = Bench::new(20 * RANGE, Manner::Honours).await;
    let fetch = bench.fetch();
    fetch.widen();
    drop(fetch);
    while bench.budget.room().available_permits() < SHARED {
        tokio::task::yield_now().await;
    }
}
