//! Random access into layers of every kind: right bytes by few requests, shared between readers,
//! and never wrong ones.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clipwright::archive::{IndexOptions, LayerPolicy, index_image};
use clipwright::clip::node::{FileContent, NodeKind, RemoteRef};
use clipwright::clip::reader::Archive;
use clipwright::clip::seek_table::LayerSpans;
use clipwright::clip::storage_info::StorageInfo;
use clipwright::clip::writer::seekable_archive;
use clipwright::content::ContentError;
use clipwright::content::{SpanMemory, SpanReader};
use clipwright::digest::Digest;
use clipwright::error::Classify as _;
use clipwright::gzip::Span;
use clipwright::layer::Encoding;
use clipwright::oci::{Credentials, OciSettings, Platform, ResolvedImage, Source};
use clipwright::progress::Silent;
use clipwright::retry::RetrySettings;
use futures_util::future::join_all;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tokio_util::sync::CancellationToken;

use crate::support::blob_server::{Answer, BlobServer};
use crate::support::layout::{Blob, GZIP, Layout, noise, tar};
use crate::support::registry::Registry;
use crate::support::upstream::{corpus_image, run, unpack};

const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// Plain bytes of a span in these tests.
const SPAN: u64 = 50_000;

/// Half text, half noise: it compresses, and not to nothing.
fn content() -> Vec<u8> {
    let mut content = noise(1, 300_000);
    for (at, byte) in content.iter_mut().enumerate().filter(|(at, _)| at / 1000 % 2 == 0) {
        *byte = b"the quick brown fox "[at % 20];
    }
    content
}

fn plain() -> Vec<u8> {
    tar(&[("a", &content()), ("b", b"short"), ("c", &content()[..70_000])])
}

fn of(bytes: Vec<u8>, media_type: &'static str) -> Blob {
    Blob { digest: Digest::of(&bytes), diff_id: Digest::of(&plain()), bytes, media_type }
}

fn zstd(frame: usize) -> Blob {
    let plain = plain();
    let frames = plain.chunks(frame).map(|part| zstd::bulk::compress(part, 3).unwrap());
    of(frames.collect::<Vec<_>>().concat(), ZSTD)
}

fn members(length: usize) -> Blob {
    let members = plain().chunks(length).map(|part| Blob::gzip(part).bytes).collect::<Vec<_>>();
    of(members.concat(), GZIP)
}

/// The same layer in every kind, with what it is called.
fn layers() -> Vec<(&'static str, Encoding, Blob)> {
    vec![
        ("gzip", Encoding::Gzip, Blob::gzip(&plain())),
        ("gzip members", Encoding::Gzip, members(20_000)),
        ("tar", Encoding::Tar, of(plain(), TAR)),
        ("zstd frames", Encoding::Zstd, zstd(20_000)),
        ("one zstd frame", Encoding::Zstd, zstd(usize::MAX)),
    ]
}

fn settings() -> OciSettings {
    let retry = RetrySettings {
        attempts: 2,
        base_delay: Duration::from_micros(1),
        max_delay: Duration::from_millis(1),
    };
    OciSettings { retry, ..OciSettings::default() }
}

async fn open(source: &str) -> Source {
    let source = source.parse().unwrap();
    Source::open(&source, &settings(), Some(Credentials::Anonymous)).await.unwrap()
}

async fn resolve(source: &Source) -> ResolvedImage {
    source.resolve(&Platform::host(), &CancellationToken::new()).await.unwrap()
}

/// An archive of one layer, and a server of that layer.
struct Bench {
    dir: tempfile::TempDir,
    server: BlobServer,
    blob: Blob,
    reader: SpanReader,
}

impl Bench {
    async fn new(blob: Blob) -> Self {
        Self::lying(blob, |_| {}).await
    }

    /// With a seek table that says something else than what was found.
    async fn lying(blob: Blob, lie: impl FnOnce(&mut Vec<Span>)) -> Self {
        let layout = Layout::of(std::slice::from_ref(&blob));
        let source = open(&format!("oci:{}", layout.path().display())).await;
        let options =
            IndexOptions { span: Some(SPAN), layers: LayerPolicy::AsIs, ..IndexOptions::default() };
        let (image, cancel) = (resolve(&source).await, CancellationToken::new());
        let indexed =
            index_image(&source, &image, &options, Arc::new(Silent), &cancel).await.unwrap();
        let layer = &indexed.layers[0];
        let mut spans = layer.spans.clone();
        lie(&mut spans);
        let spans = LayerSpans {
            digest: layer.digest,
            encoding: layer.encoding,
            plain_size: layer.plain_size,
            compressed_size: layer.compressed_size,
            span: SPAN,
            spans: &spans,
        };
        let dir = tempfile::tempdir().unwrap();
        let archive = seekable_archive(&indexed.tree, &indexed.storage, &[spans]).unwrap();
        std::fs::write(dir.path().join("image.clip"), archive).unwrap();
        let server = BlobServer::start(&blob.bytes).await;
        let reader = reader(&dir.path().join("image.clip"), &server.address, &blob).await.unwrap();
        Self { dir, server, blob, reader }
    }

    async fn read(&self, from: usize, to: usize) -> Result<Bytes, ContentError> {
        self.reader.read(from as u64..to as u64, &CancellationToken::new()).await
    }

    /// Plain bytes of a span.
    fn span(&self, number: usize) -> (usize, usize) {
        let plain = &self.reader.spans().entries()[number].plain;
        (usize::try_from(plain.start).unwrap(), usize::try_from(plain.end).unwrap())
    }
}

async fn reader(archive: &Path, address: &str, blob: &Blob) -> Result<SpanReader, ContentError> {
    let header = Archive::open(archive).unwrap().header;
    let (source, size) = (open(&format!("{address}/r:t")).await, blob.bytes.len() as u64);
    let reader =
        SpanReader::open(archive, &header, source, blob.digest, size, SpanMemory::default())?;
    Ok(reader.expect("the layer has spans"))
}

#[tokio::test]
async fn any_range_of_any_kind_comes_back_by_one_request() {
    let plain = plain();
    for (what, encoding, blob) in layers() {
        let bench = Bench::new(blob).await;
        assert_eq!(bench.reader.spans().encoding(), encoding, "{what}");
        let many = bench.reader.spans().entries().len() > 3;
        assert_eq!(many, what != "one zstd frame", "{what}");
        let mut random = StdRng::seed_from_u64(7);
        for _ in 0..60 {
            let from = random.random_range(0..plain.len());
            let to = (from + random.random_range(0..120_000)).min(plain.len());
            let read = bench.read(from, to).await.unwrap();
            assert!(read == plain[from..to], "{what}: {from}..{to}");
            let requests = bench.server.requests();
            assert_eq!(requests.len(), usize::from(from < to), "{what}: {from}..{to}");
            let fetched: usize = requests.iter().map(ExactSizeIterator::len).sum();
            assert!(!many || fetched < bench.blob.bytes.len() / 2 + 60_000, "{what}: {fetched}");
        }
        assert!(bench.read(0, plain.len()).await.unwrap() == plain, "{what}");
        let mut copied = Vec::new();
        let cancel = CancellationToken::new();
        bench.reader.copy(5..plain.len() as u64, &mut copied, &cancel).await.unwrap();
        assert!(copied == plain[5..], "{what}");
        let past = bench.read(9, plain.len() + 1).await.unwrap_err().to_string();
        assert!(past.contains(&format!("layer {} span ", bench.blob.digest)), "{past}");
    }
}

#[tokio::test]
async fn readers_share_what_is_on_its_way() {
    let bench = Bench::new(Blob::gzip(&plain())).await;
    let (from, to) = bench.span(2);
    bench.server.answer(Answer::Held);
    let mut reads: Vec<_> = (0..8).map(|n| bench.read(from + n, to - n).boxed()).collect();
    // All have asked before the answer is there.
    assert!(reads.iter_mut().all(|read| read.now_or_never().is_none()));
    bench.server.release();
    for (n, read) in join_all(reads).await.into_iter().enumerate() {
        assert!(read.unwrap() == plain()[from + n..to - n]);
    }
    assert_eq!(bench.server.requests().len(), 1);
    // A reader that needs more joins for a part, and fetches the rest.
    let (_, after) = bench.span(4);
    let mut first = bench.read(from, to).boxed();
    assert!((&mut first).now_or_never().is_none());
    let mut second = bench.read(from + 3, after).boxed();
    assert!((&mut second).now_or_never().is_none());
    bench.server.answer(Answer::Right);
    bench.server.release();
    let (first, second) = futures_util::join!(first, second);
    assert!(first.unwrap() == plain()[from..to]);
    assert!(second.unwrap() == plain()[from + 3..after]);
    let requests = bench.server.requests();
    assert_eq!(requests.len(), 2, "{requests:?}");
    // Nothing is kept once nobody uses it.
    bench.read(from, to).await.unwrap();
    assert_eq!(bench.server.requests().len(), 1);
}

#[tokio::test]
async fn who_leaves_takes_nothing_from_the_others() {
    let bench = Bench::new(Blob::gzip(&plain())).await;
    let (from, to) = bench.span(1);
    let range = from as u64..to as u64;
    bench.server.answer(Answer::Held);
    let (cancel, never) = (CancellationToken::new(), CancellationToken::new());
    let mut cancelled = bench.reader.read(range.clone(), &cancel).boxed();
    let mut dropped = bench.reader.read(range.clone(), &never).boxed();
    let mut stays = bench.reader.read(range.clone(), &never).boxed();
    for read in [&mut cancelled, &mut dropped, &mut stays] {
        assert!(read.now_or_never().is_none());
    }
    bench.server.asked().await;
    cancel.cancel();
    assert!(matches!(cancelled.await, Err(ContentError::Cancelled)));
    drop(dropped);
    bench.server.release();
    assert!(stays.await.unwrap() == plain()[from..to]);
    assert_eq!(bench.server.requests().len(), 1);

    // When all have left, so does the request.
    let mut alone = bench.reader.read(range, &never).boxed();
    assert!((&mut alone).now_or_never().is_none());
    bench.server.asked().await;
    drop(alone);
    bench.server.abandoned().await;
    bench.server.answer(Answer::Right);
    assert!(bench.read(from, to).await.unwrap() == plain()[from..to]);
}

#[tokio::test]
async fn servers_that_answer_wrongly_get_an_error_that_names_layer_and_span() {
    for (what, _, blob) in layers() {
        let bench = Bench::new(blob.clone()).await;
        let number = bench.reader.spans().entries().len() / 2;
        let (from, to) = bench.span(number);
        let mut flipped = blob.bytes.clone();
        let span = bench.reader.spans().entries()[number].compressed.clone();
        flipped[usize::try_from(u64::midpoint(span.start, span.end)).unwrap()] ^= 4;
        let others = noise(9, blob.bytes.len());
        for (answer, code) in [
            (Answer::Of(flipped), "span_digest_mismatch"),
            (Answer::Of(others), "span_digest_mismatch"),
            (Answer::Half, "truncated_blob"),
        ] {
            // A span that is the whole blob is asked for as that, and known by the blob's digest.
            let whole = span.end - span.start == blob.bytes.len() as u64;
            let code = match (whole, code) {
                (true, "span_digest_mismatch") => "digest_mismatch",
                (_, code) => code,
            };
            bench.server.answer(answer.clone());
            let error = bench.read(from + 1, to).await.unwrap_err();
            let text = error.to_string();
            let broken = matches!(answer, Answer::Half) && error.code() == "registry_unavailable";
            let wanted = error.code() == code || broken;
            assert!(wanted, "{what}, {answer:?}: {}: {text}", error.code());
            let named = format!("layer {} span {number}: ", blob.digest);
            assert!(text.starts_with(&named), "{what}: {text}");
        }
        // A failure is not for those who come later.
        bench.server.answer(Answer::Right);
        assert!(bench.read(from, to).await.unwrap() == plain()[from..to], "{what}");
        // Ranges are no duty. Where they are given wrongly, the digest of the span finds out.
        for answer in [
            Answer::Whole,
            Answer::OtherRange,
            Answer::Misplaced,
            Answer::Unsaid,
            Answer::Short(70_000),
        ] {
            bench.server.answer(answer.clone());
            let read = bench.read(from, to).await;
            let read = read.unwrap_or_else(|error| panic!("{what}, {answer:?}: {error}"));
            assert!(read == plain()[from..to], "{what}, {answer:?}");
        }
    }
}

/// Moves the boundary between two spans by so many plain bytes.
fn move_boundary(spans: &mut [Span], number: usize, by: u64) {
    spans[number].plain_length += by;
    spans[number + 1].start.plain += by;
    spans[number + 1].plain_length -= by;
}

#[tokio::test]
async fn seek_tables_that_lie_are_found_out() {
    for (what, encoding, blob) in layers() {
        if what == "one zstd frame" || encoding == Encoding::Tar {
            continue; // no boundary, and none whose lies would be written
        }
        let bench = Bench::lying(blob.clone(), |spans| move_boundary(spans, 1, 10)).await;
        for number in [1, 2] {
            let (from, to) = bench.span(number);
            let error = bench.read(from, to).await.unwrap_err();
            assert_eq!(error.code(), "archive_corrupt", "{error}");
            let named = format!("layer {} span {number}: ", blob.digest);
            assert!(error.to_string().starts_with(&named), "{what}: {error}");
        }
        let (from, to) = bench.span(0);
        assert!(bench.read(from, to).await.unwrap() == plain()[from..to], "{what}");
    }
    // Windows that belong elsewhere, or are none.
    let blob = Blob::gzip(&plain());
    let lie = |spans: &mut Vec<Span>| {
        spans[2].start.window = clipwright::gzip::SparseWindow::from_encoded(vec![1, 2, 3]);
    };
    let bench = Bench::lying(blob.clone(), lie).await;
    let (from, to) = bench.span(2);
    let error = bench.read(from, to).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("layer {} span 2: ", blob.digest)), "{error}");
    // A digest of other bytes.
    let lie = |spans: &mut Vec<Span>| spans[3].digest = Digest::of(b"other");
    let bench = Bench::lying(blob.clone(), lie).await;
    let (from, to) = bench.span(3);
    let error = bench.read(from, to).await.unwrap_err();
    assert_eq!(error.code(), "span_digest_mismatch");
    // A table of a layer that has another size.
    let mut longer = blob.clone();
    longer.bytes.push(0);
    let archive = bench.dir.path().join("image.clip");
    let error = reader(&archive, &bench.server.address, &longer).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("layer {} span 0: the seek table", blob.digest)), "{error}");
}

fn clipwright() -> Command {
    Command::new(env!("CARGO_BIN_EXE_clipwright"))
}

#[tokio::test(flavor = "multi_thread")]
async fn cat_reads_every_kind_and_says_so_when_ranges_are_ignored() {
    for (what, encoding, blob) in layers() {
        let layout = Layout::of(std::slice::from_ref(&blob));
        let archive = layout.path().join("image.clip");
        let server = BlobServer::start(&blob.bytes).await;
        let index = |layers: &str| {
            let output = clipwright()
                .args(["index", "--no-cache", "--layers", layers, "-o"])
                .arg(&archive)
                .args(["--published-as", &format!("{}/r:t", server.address)])
                .arg(format!("oci:{}", layout.path().display()))
                .output()
                .unwrap();
            (output.status.success(), String::from_utf8(output.stderr).unwrap())
        };
        let (indexed, said) = index("refuse");
        assert_eq!(indexed, encoding == Encoding::Gzip, "{what}: {said}");
        if !indexed {
            assert!(said.contains("beta9's workers read gzip alone"), "{said}");
            assert!(said.contains(&blob.digest.to_string()), "{said}");
            assert!(said.contains(blob.media_type), "{said}");
        }
        let (indexed, said) = index("as-is");
        assert!(indexed, "{what}: {said}");
        let warned = said.contains("but beta9's workers read gzip alone");
        assert_eq!(warned, encoding != Encoding::Gzip, "{what}: {said}");
        let cat = || clipwright().arg("cat").arg(&archive).arg("/a").output().unwrap();
        server.answer(Answer::Right);
        let output = cat();
        assert!(output.stdout == content(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stderr.is_empty(), "{what}");
        server.answer(Answer::Whole);
        let output = cat();
        assert!(output.stdout == content(), "{what}");
        let said = String::from_utf8_lossy(&output.stderr);
        let asked_for_all = server.requests().iter().all(|range| range.len() == blob.bytes.len());
        assert!(asked_for_all || said.contains("the registry ignores Range"), "{what}: {said}");
    }
}

/// Media types are often wrong; what is there counts, in both directions.
#[tokio::test]
async fn layers_are_told_by_their_bytes() {
    let cancel = CancellationToken::new();
    for (media_type, bytes, encoding) in [
        (GZIP, zstd(20_000).bytes, Encoding::Zstd),
        (GZIP, plain(), Encoding::Tar),
        (ZSTD, Blob::gzip(&plain()).bytes, Encoding::Gzip),
        (TAR, Blob::gzip(&plain()).bytes, Encoding::Gzip),
    ] {
        let layout = Layout::of(&[of(bytes, media_type)]);
        let source = open(&format!("oci:{}", layout.path().display())).await;
        let image = resolve(&source).await;
        for (layers, taken) in [(LayerPolicy::AsIs, true), (LayerPolicy::Refuse, false)] {
            let options = IndexOptions { layers, ..IndexOptions::default() };
            match index_image(&source, &image, &options, Arc::new(Silent), &cancel).await {
                Ok(indexed) => assert!(taken && indexed.layers[0].encoding == encoding),
                Err(error) => {
                    assert!(!taken, "{error}");
                    assert_eq!(error.code(), "layer_unsupported", "{error}");
                }
            }
        }
    }
}

/// Every file of pydata, in random order, from a registry: it is what `umoci unpack` makes of it.
#[tokio::test(flavor = "multi_thread")]
async fn every_file_of_pydata_comes_out_of_its_spans() {
    let Some(layout) = corpus_image("pydata") else { return };
    if !nix::unistd::geteuid().is_root() {
        return crate::support::upstream::skip("not root, which unpacking with owners needs");
    }
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let bundle = dir.path().join("bundle");
    let unpacking = tokio::task::spawn_blocking({
        let layout = layout.clone();
        move || unpack(&layout, &bundle)
    });
    let registry = Registry::start(dir.path());
    let reference = registry.push(&layout, "pydata");
    let archive_path = dir.path().join("image.clip");
    run(clipwright().args(["index", "--no-cache", &reference, "-o"]).arg(&archive_path));

    let archive = Archive::open(&archive_path).unwrap();
    let StorageInfo::Oci(image) = &archive.storage else { panic!("not of an image") };
    let memory = SpanMemory::default();
    let source = open(&reference).await;
    let mut readers = BTreeMap::new();
    for layer in &image.image_metadata.as_ref().unwrap().layers_data {
        let digest: Digest = layer.digest.parse().unwrap();
        let (header, size) = (&archive.header, u64::try_from(layer.size).unwrap());
        let source = source.clone();
        let reader =
            SpanReader::open(&archive_path, header, source, digest, size, memory.clone()).unwrap();
        readers.insert(digest, reader.expect("every layer has spans"));
    }
    let mut files: Vec<(PathBuf, RemoteRef)> = archive
        .tree
        .iter()
        .filter_map(|node| match &node.kind {
            NodeKind::File(FileContent::Remote(remote)) => {
                Some((node.path.to_string().trim_start_matches('/').into(), *remote))
            }
            _ => None,
        })
        .collect();
    assert!(files.len() > 20_000, "{}", files.len());
    files.shuffle(&mut StdRng::seed_from_u64(4));

    let root = unpacking.await.unwrap();
    let (root, readers, cancel) = (&root, &readers, &CancellationToken::new());
    stream::iter(files)
        .for_each_concurrent(8192, |(path, RemoteRef { layer, offset, length })| async move {
            let read = readers[&layer].read(offset..offset + length, cancel).await.unwrap();
            let unpacked = tokio::fs::read(root.join(&path)).await.unwrap();
            assert!(read == unpacked, "{}: its content differs", path.display());
        })
        .await;
}
