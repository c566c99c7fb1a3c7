//! Neighbouring spans on their way, over one connection. Each is verified, decoded and handed to
//! whoever waits for it as soon as its last byte is there, while those behind it still come.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt as _;
use futures_util::future::join_all;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Arrival, Counted, Layer};
use crate::content::ContentError;
use crate::content::span_cache::Claim;
use crate::content::spans::length;
use crate::local::processor_time;

/// How long to wait for another process that fetches the same.
pub(super) const OTHERS: Duration = Duration::from_secs(3);
/// How often to look whether it has come.
pub(super) const LOOK: Duration = Duration::from_millis(10);

/// What is on its way, and who waits for it.
pub(super) struct Flight {
    layer: Arc<Layer>,
    run: Vec<Wanted>,
    /// Whether somebody waits for any of it.
    wanted: watch::Receiver<bool>,
    /// Whether it was begun before anybody waited.
    ahead: bool,
}

/// A span that is to be brought.
struct Wanted {
    span: usize,
    arrival: Arrival,
    /// That no other process brings it meanwhile.
    claim: Option<Claim>,
}

impl Flight {
    /// A flight of `run`, whose spans are neighbours.
    pub(super) fn new(
        layer: Arc<Layer>,
        run: Vec<(usize, Arrival)>,
        wanted: watch::Receiver<bool>,
    ) -> Self {
        let ahead = !*wanted.borrow();
        let run = run.into_iter().map(|(span, arrival)| Wanted { span, arrival, claim: None });
        Self { layer, run: run.collect(), wanted, ahead }
    }

    /// Brings the spans: those that other processes bring from the cache, the others, as far as they
    /// are neighbours, together.
    pub(super) async fn run(self) {
        let Self { layer, run, wanted, ahead } = self;
        let (mut runs, mut others): (Vec<Vec<Wanted>>, Vec<Wanted>) = (Vec::new(), Vec::new());
        for mut item in run {
            let Ok(claim) = layer.claim(item.span) else {
                others.push(item);
                continue;
            };
            item.claim = claim;
            match runs.last_mut() {
                Some(run) if run.last().is_some_and(|last| last.span + 1 == item.span) => {
                    run.push(item);
                }
                _ => runs.push(vec![item]),
            }
        }
        let runs = runs.into_iter().map(|run| fetch(layer.clone(), run, wanted.clone(), ahead));
        let others =
            others.into_iter().map(|item| wait_for(layer.clone(), item, wanted.clone(), ahead));
        tokio::join!(join_all(runs), join_all(others));
    }
}

/// Waits for a span that another process brings; brings it if that one does not.
async fn wait_for(layer: Arc<Layer>, mut item: Wanted, wanted: watch::Receiver<bool>, ahead: bool) {
    let late = Instant::now() + OTHERS;
    loop {
        tokio::time::sleep(LOOK).await;
        // In this order: who gives a claim back has kept the entry before.
        let claim = layer.claim(item.span);
        let (looking, span) = (layer.clone(), item.span);
        let kept = tokio::task::spawn_blocking(move || looking.plain_at_hand(span)).await;
        if let Ok(Some(plain)) = kept {
            layer.forget(item.span);
            let _ = item.arrival.send(Ok(plain));
            return;
        }
        match claim {
            Ok(claim) => item.claim = claim,
            Err(()) if Instant::now() < late => continue,
            Err(()) => {}
        }
        return fetch(layer, vec![item], wanted, ahead).await;
    }
}

/// Fetches neighbouring spans; whatever fails, nobody is left waiting.
async fn fetch(
    layer: Arc<Layer>,
    run: Vec<Wanted>,
    mut wanted: watch::Receiver<bool>,
    ahead: bool,
) {
    let (Some(first), Some(last)) = (run.first(), run.last()) else { return };
    let spans = first.span..last.span + 1;
    let mut waiting = run.into_iter();
    let failure = match bring(&layer, spans, &mut waiting, &mut wanted, ahead).await {
        Ok(()) => return,
        Err(error) => Arc::new(error),
    };
    for Wanted { span, arrival, .. } in waiting {
        layer.forget(span);
        let _ = arrival.send(Err(failure.clone()));
    }
}

async fn bring(
    layer: &Arc<Layer>,
    spans: Range<usize>,
    waiting: &mut std::vec::IntoIter<Wanted>,
    wanted: &mut watch::Receiver<bool>,
    ahead: bool,
) -> Result<(), ContentError> {
    let reader = &layer.reader.0;
    let counters = layer.shared.counters();
    let entries = &reader.spans.entries()[spans.clone()];
    let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return Ok(()) };
    let range = first.compressed.start..last.compressed.end;
    // Whoever drops this future ends it.
    let never = CancellationToken::new();
    let unfetched = |source| reader.unfetched(&spans, source);
    let memory = &layer.shared.0.memory[usize::from(ahead)];
    counters.requested();
    let opened = reader.source.part(&reader.digest, reader.size, range.clone(), &never).await;
    let mut stream = opened.map_err(unfetched)?;
    let mut at = range.start;
    let mut buffer = BytesMut::new();
    for entry in entries {
        let needed = length(&entry.compressed) + length(&entry.plain);
        let permit = memory.take(needed).await?;
        while at + (buffer.len() as u64) < entry.compressed.end {
            give_way(layer, wanted).await;
            let Some(chunk) = stream.try_next().await.map_err(unfetched)? else {
                let short = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
                return Err(crate::local::io_error("a range ended early")(short).into());
            };
            counters.received(chunk.len());
            buffer.extend_from_slice(&chunk);
        }
        // A byte in which a span ends, its neighbour may begin.
        let skip = |to: u64| usize::try_from(to - at).unwrap_or(usize::MAX);
        let bytes = buffer[skip(entry.compressed.start)..skip(entry.compressed.end)].to_vec();
        let shared = skip(entry.compressed.end).saturating_sub(1);
        drop(buffer.split_to(shared));
        at += shared as u64;
        if let Some(item) = waiting.next() {
            tokio::spawn(land(layer.clone(), item, bytes.into(), permit));
        }
    }
    Ok(())
}

/// Lets those go first that somebody waits for.
async fn give_way(layer: &Layer, wanted: &mut watch::Receiver<bool>) {
    if *wanted.borrow() {
        return;
    }
    let mut waiting = layer.shared.0.waiting.subscribe();
    tokio::select! {
        _ = waiting.wait_for(|waiting| *waiting == 0) => {}
        _ = wanted.wait_for(|wanted| *wanted) => {}
    }
}

/// Verifies and decodes a span, hands it out and keeps it. Wrong bytes are asked for again.
async fn land(layer: Arc<Layer>, item: Wanted, bytes: Bytes, memory: OwnedSemaphorePermit) {
    let Wanted { span, arrival, claim } = item;
    let _landing = Counted::new(&layer.shared.0.landing);
    let decoded = {
        let layer = layer.clone();
        tokio::task::spawn_blocking(move || {
            let started = processor_time();
            let plain = layer.reader.0.decode(span..span + 1, &bytes);
            layer.shared.counters().inflated(processor_time().saturating_sub(started));
            plain
        })
    };
    let decoded = match decoded.await {
        Ok(decoded) => decoded,
        Err(died) => Err(layer.reader.0.died(&died)),
    };
    let plain = match decoded {
        Ok(plain) => Ok(Bytes::from(plain)),
        Err(error @ ContentError::SpanDigest { .. }) => {
            tracing::warn!(%error, "asking for the span again");
            drop(memory); // it is taken again there
            again(&layer, span).await
        }
        Err(error) => Err(error),
    };
    match plain {
        Ok(plain) => {
            let _ = arrival.send(Ok(plain.clone()));
            let kept = tokio::task::spawn_blocking(move || {
                layer.keep(span, &plain);
                drop(claim);
            });
            let _ = kept.await;
        }
        Err(error) => {
            layer.forget(span);
            let _ = arrival.send(Err(Arc::new(error)));
        }
    }
}

/// Asks for a span alone, and in the end without trust in ranges.
async fn again(layer: &Layer, span: usize) -> Result<Bytes, ContentError> {
    let entry = &layer.reader.spans().entries()[span];
    let counters = layer.shared.counters();
    counters.requested();
    let plain = layer.reader.read(entry.plain.clone(), &CancellationToken::new()).await?;
    counters.received(usize::try_from(length(&entry.compressed)).unwrap_or(0));
    Ok(plain)
}
