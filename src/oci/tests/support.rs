//! A small image, a registry that serves it, and a server that answers by script.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use wiremock::matchers::{method, path};
use wiremock::{Mock, MockBuilder, MockServer, ResponseTemplate};

use crate::digest::Digest;
use crate::oci::{
    BlobStream, Credentials, ImageSource, OciError, OciSettings, Platform, ResolvedImage, Source,
};
use crate::retry::RetrySettings;

pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// An image of one layer. The layer is no tar: nothing here looks inside.
pub(super) struct TestImage {
    pub(super) layer: Vec<u8>,
    pub(super) config: Vec<u8>,
    pub(super) manifest: Vec<u8>,
}

impl TestImage {
    pub(super) fn new() -> Self {
        Self::with_diff_ids(1)
    }

    pub(super) fn with_diff_ids(count: usize) -> Self {
        let layer: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
        let config = json!({
            "os": "linux", "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": vec![Digest::of(b"plain"); count]},
        });
        let config = config.to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": Digest::of(&config), "size": config.len(),
            },
            "layers": [{
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": Digest::of(&layer), "size": layer.len(),
            }],
        });
        Self { layer, config, manifest: manifest.to_string().into_bytes() }
    }

    pub(super) fn layer_digest(&self) -> Digest {
        Digest::of(&self.layer)
    }

    /// Serves manifest (by the tag `t` and by digest), config and layer in repository `r`.
    pub(super) async fn serve(&self, server: &MockServer) {
        let names = ["t".to_owned(), Digest::of(&self.manifest).to_string()];
        for name in names {
            let answer = ResponseTemplate::new(200).set_body_raw(self.manifest.clone(), MANIFEST);
            get(&format!("manifests/{name}")).respond_with(answer).mount(server).await;
        }
        for blob in [&self.config, &self.layer] {
            let answer = ResponseTemplate::new(200).set_body_bytes(blob.clone());
            get(&format!("blobs/{}", Digest::of(blob))).respond_with(answer).mount(server).await;
        }
    }
}

/// GET of something in repository `r`.
pub(super) fn get(what: &str) -> MockBuilder {
    Mock::given(method("GET")).and(path(format!("/v2/r/{what}")))
}

pub(super) fn amd64() -> Platform {
    "linux/amd64".parse().unwrap()
}

pub(super) fn settings() -> OciSettings {
    OciSettings {
        retry: RetrySettings {
            attempts: 3,
            base_delay: Duration::from_millis(1),
            max_delay: Duration::from_secs(2),
        },
        ..OciSettings::default()
    }
}

/// Opens `host:port/r:t` anonymously.
pub(super) async fn open(address: impl std::fmt::Display) -> Source {
    open_as(address, Credentials::Anonymous).await
}

pub(super) async fn open_as(address: impl std::fmt::Display, credentials: Credentials) -> Source {
    let image: ImageSource = format!("{address}/r:t").parse().unwrap();
    Source::open(&image, &settings(), Some(credentials)).await.unwrap()
}

pub(super) async fn resolve(source: &Source) -> Result<ResolvedImage, OciError> {
    source.resolve(&amd64(), &CancellationToken::new()).await
}

pub(super) async fn read(mut stream: BlobStream) -> Result<Vec<u8>, OciError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk?);
    }
    Ok(bytes)
}

/// Reads the image's layer as a stream.
pub(super) async fn layer(source: &Source, image: &TestImage) -> Result<Vec<u8>, OciError> {
    let size = image.layer.len() as u64;
    let cancel = CancellationToken::new();
    read(source.blob(&image.layer_digest(), size, &cancel).await?).await
}

/// Answers each connection with the next of the given bytes and closes it; remembers the
/// requests' heads.
pub(super) struct ScriptedServer {
    pub(super) address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl ScriptedServer {
    pub(super) async fn start(answers: Vec<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = requests.clone();
        tokio::spawn(async move {
            for answer in answers {
                let (stream, _) = listener.accept().await.unwrap();
                let mut stream = BufReader::new(stream);
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    if stream.read_line(&mut head).await.unwrap() == 0 {
                        break;
                    }
                }
                log.lock().unwrap().push(head.to_ascii_lowercase());
                // The client may have gone: then it has read enough.
                let _ = stream.write_all(&answer).await;
            }
        });
        Self { address, requests }
    }

    /// The `Range` headers of the requests so far.
    pub(super) fn ranges(&self) -> Vec<Option<String>> {
        let requests = self.requests.lock().unwrap();
        let range = |head: &String| {
            head.lines().find_map(|line| line.strip_prefix("range: ")).map(str::to_owned)
        };
        requests.iter().map(range).collect()
    }
}

/// An HTTP answer whose headers are given as they are.
pub(super) fn answer(status: u16, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}
