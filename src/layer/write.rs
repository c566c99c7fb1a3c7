//! From a layer's tar to its compressed bytes and its [`LayerIndex`], in one pass: while some threads
//! compress pieces of the tar, another hashes them and takes them apart, and one puts the compressed
//! pieces together. Memory is bounded by a few pieces a thread, whatever the layer's size.

use std::io::{ErrorKind, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use sha2::{Digest as _, Sha256};

use super::tar_scan::{ScanError, TarScanner};
use super::{Encoding, LayerError, LayerIndex, Limit, Limits, NoContents};
use crate::digest::Digest;
use crate::gzip::{DEFAULT_SPAN, MemberSpans, Span, compress_member, member_size};
use crate::memory::MemoryAccount;

/// Pieces that wait between two threads.
const WAITING: usize = 2;

/// How to write a layer.
#[derive(Debug, Clone, Copy)]
pub struct LayerWrite {
    /// The digest of the tar; errors name the layer by it.
    pub diff_id: Digest,
    /// Whether the tar was changed since: what became of it is not compared with the diff id.
    pub is_changed: bool,
    /// What reading the layer may cost.
    pub limits: Limits,
    /// The index gets spans of about so many plain bytes; none if `None`.
    pub span: Option<u64>,
    /// gzip's level, 1 to 9.
    pub level: u32,
    /// Threads that compress.
    pub threads: usize,
}

/// A piece of the tar.
type Piece = Arc<Vec<u8>>;
/// A piece that was compressed, and the plain bytes in it.
type Member = (std::io::Result<Vec<u8>>, u64);

/// Compresses the tar that `plain` yields into `out`, as gzip. The index is the one that
/// [`super::read_layer`] would make of what was written, with the same limits and span. Fails unless the
/// tar is what the diff id names, if it was not changed: only then may what `out` got be used. The same tar, span and level give
/// the same bytes.
pub fn write_layer(
    layer: LayerWrite,
    account: &MemoryAccount,
    plain: &mut (dyn Read + Send),
    out: &mut (dyn Write + Send),
) -> Result<LayerIndex, LayerError> {
    let LayerWrite { diff_id: expected, is_changed, limits, span, level, threads } = layer;
    let size = member_size(span.unwrap_or(DEFAULT_SPAN));
    let copy = |detail: String| LayerError::Copy { layer: expected, detail };
    let died = |detail: String| LayerError::Thread { layer: expected, detail };
    let (to_scan, scanned) = sync_channel::<Piece>(WAITING);
    let (to_compress, compressing) = sync_channel::<(Piece, SyncSender<Member>)>(WAITING);
    let (in_order, ordered) = sync_channel::<Receiver<Member>>(threads.max(1) + WAITING);
    let compressing = Arc::new(Mutex::new(compressing));
    thread::scope(|scope| {
        let named = |name: &str| thread::Builder::new().name(name.to_owned());
        let scan = named("layer-scan")
            .spawn_scoped(scope, move || scan(&scanned, limits, account))
            .map_err(|e| died(e.to_string()))?;
        let assemble = named("layer-assemble")
            .spawn_scoped(scope, move || assemble(&ordered, span, limits, out))
            .map_err(|e| died(e.to_string()))?;
        for _ in 0..threads.max(1) {
            let compressing = Arc::clone(&compressing);
            named("layer-compress")
                .spawn_scoped(scope, move || compress(&compressing, level))
                .map_err(|e| died(e.to_string()))?;
        }
        // Who compresses ends when nobody can ask any more.
        drop(compressing);
        let read = cut(plain, size, &to_scan, &to_compress, &in_order);
        drop((to_scan, to_compress, in_order));
        let scanned =
            scan.join().map_err(|_| died("the thread that scans its tar panicked".into()))?;
        let assembled = assemble
            .join()
            .map_err(|_| died("the thread that puts it together panicked".into()))?;
        // Of several failures, the one that made the others stop.
        read.map_err(|e| copy(format!("its tar can't be read: {e}")))?;
        let (diff_id, plain_size, tar) = scanned.map_err(|e| e.of(expected))?;
        let Assembled { digest, compressed_size, spans } =
            assembled.map_err(|error| match error {
                AssemblyError::Io(error) => copy(error.to_string()),
                AssemblyError::Limit(excess) => LayerError::Limit { layer: expected, excess },
            })?;
        if diff_id != expected && !is_changed {
            return Err(LayerError::DiffId { layer: digest, expected, found: diff_id });
        }
        let (entries, notes) = tar.finish().map_err(|e| e.of(expected))?;
        Ok(LayerIndex {
            digest,
            encoding: Encoding::Gzip,
            diff_id,
            compressed_size,
            plain_size,
            entries,
            notes,
            spans,
        })
    })
}

/// Hands the tar on in pieces, until somebody takes no more.
fn cut(
    plain: &mut (dyn Read + Send),
    size: usize,
    to_scan: &SyncSender<Piece>,
    to_compress: &SyncSender<(Piece, SyncSender<Member>)>,
    in_order: &SyncSender<Receiver<Member>>,
) -> std::io::Result<()> {
    let mut first = true;
    loop {
        let mut piece = Vec::with_capacity(size);
        fill(plain, size, &mut piece)?;
        let last = piece.len() < size;
        // A stream of no bytes has a member all the same.
        if !piece.is_empty() || first {
            let (piece, (reply, member)) = (Arc::new(piece), sync_channel(1));
            let handed = in_order.send(member).is_ok()
                && to_compress.send((Arc::clone(&piece), reply)).is_ok()
                && to_scan.send(piece).is_ok();
            if !handed {
                return Ok(());
            }
        }
        if last {
            return Ok(());
        }
        first = false;
    }
}

/// Reads `size` bytes, or as many as there are.
fn fill(plain: &mut dyn Read, size: usize, piece: &mut Vec<u8>) -> std::io::Result<()> {
    while piece.len() < size {
        let room = (size - piece.len()) as u64;
        match plain.take(room).read_to_end(piece) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Compresses pieces as long as there are any.
fn compress(pieces: &Mutex<Receiver<(Piece, SyncSender<Member>)>>, level: u32) {
    loop {
        let next = pieces.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((piece, reply)) = next else { return };
        let member = compress_member(&piece, level);
        let _ = reply.send((member, piece.len() as u64)); // nobody waits for it any more
    }
}

/// Hashes and scans everything that arrives.
fn scan(
    pieces: &Receiver<Piece>,
    limits: Limits,
    account: &MemoryAccount,
) -> Result<(Digest, u64, TarScanner), ScanError> {
    let (mut hasher, mut scanner) = (Sha256::new(), TarScanner::new(limits, account));
    let mut size = 0;
    while let Ok(piece) = pieces.recv() {
        size += piece.len() as u64;
        Limit::PlainBytes.check(size, limits.plain_bytes, String::new)?;
        hasher.update(&**piece);
        scanner.push(&piece, &mut NoContents)?;
    }
    Ok((Digest::from_hasher(hasher), size, scanner))
}

struct Assembled {
    digest: Digest,
    compressed_size: u64,
    spans: Vec<Span>,
}

enum AssemblyError {
    Io(std::io::Error),
    Limit(super::Excess),
}

/// Writes the members in their order.
fn assemble(
    members: &Receiver<Receiver<Member>>,
    span: Option<u64>,
    limits: Limits,
    out: &mut (dyn Write + Send),
) -> Result<Assembled, AssemblyError> {
    let (mut hasher, mut spans) = (Sha256::new(), span.map(MemberSpans::new));
    let (mut compressed_size, mut plain_size) = (0, 0);
    while let Ok(member) = members.recv() {
        let gone = |_| std::io::Error::other("a thread that compresses has died");
        let (member, plain) = member.recv().map_err(gone).map_err(AssemblyError::Io)?;
        let member = member.map_err(AssemblyError::Io)?;
        hasher.update(&member);
        compressed_size += member.len() as u64;
        plain_size += plain;
        // Nobody should get a layer that he would not take.
        if plain_size >= limits.ratio_from {
            let (at, ratio) = (plain_size, plain_size / compressed_size.max(1));
            let checked = Limit::Ratio.check(ratio, limits.ratio, || format!("at plain byte {at}"));
            checked.map_err(AssemblyError::Limit)?;
        }
        if let Some(spans) = &mut spans {
            spans.push(&member, plain);
        }
        out.write_all(&member).map_err(AssemblyError::Io)?;
    }
    out.flush().map_err(AssemblyError::Io)?;
    let spans = spans.map(MemberSpans::finish).unwrap_or_default();
    Ok(Assembled { digest: Digest::from_hasher(hasher), compressed_size, spans })
}

#[cfg(test)]
mod tests;
