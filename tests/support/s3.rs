//! A real S3 server in this process: s3s-fs on a free loopback port, signatures checked.
//!
//! Between the protocol and the files stands a layer of our own. It makes conditional creation
//! atomic, which s3s-fs alone does not, and injects faults where a test asks for them.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test that can't go on should panic")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use async_trait::async_trait;
use clipwright::store::S3Settings;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::dto::*;
use s3s::service::S3ServiceBuilder;
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Notify};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A running server with one empty bucket; it stops when dropped.
pub(crate) struct S3Server {
    /// Base address, `http://127.0.0.1:PORT`; use path style.
    pub(crate) endpoint: String,
    pub(crate) access_key: String,
    pub(crate) secret_key: String,
    pub(crate) region: String,
    pub(crate) bucket: String,
    pub(crate) faults: Arc<Faults>,
    root: TempDir,
    task: JoinHandle<()>,
}

/// What goes wrong. All of it is off at the start.
#[derive(Default)]
pub(crate) struct Faults {
    /// Answer every request with 503 Slow Down.
    pub(crate) down: AtomicBool,
    /// Answer the upload of parts from this number on with 500; 0 is off.
    pub(crate) fail_parts_from: AtomicU32,
    /// Answer the upload of parts from this number on never; 0 is off.
    pub(crate) hold_parts_from: AtomicU32,
    /// Answer the completion of multipart uploads with 500.
    pub(crate) fail_completions: AtomicBool,
    /// Cancelled when a multipart upload is about to be completed.
    pub(crate) cancel_at_completion: std::sync::Mutex<CancellationToken>,
    /// Told when a part is held.
    pub(crate) held: Notify,
    /// Told when a multipart upload was aborted.
    pub(crate) aborted: Notify,
}

impl S3Server {
    pub(crate) async fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        let (access_key, secret_key) = ("test-access".to_owned(), "test-secret".to_owned());
        let bucket = "archives".to_owned();
        std::fs::create_dir(root.path().join(&bucket)).unwrap();
        let faults = Arc::new(Faults::default());

        let service = {
            let files = FileSystem::new(root.path()).unwrap();
            let (writing, uploads) = (Mutex::new(()), Mutex::default());
            let mut builder =
                S3ServiceBuilder::new(Layer { files, faults: faults.clone(), writing, uploads });
            builder.set_auth(SimpleAuth::from_single(access_key.clone(), secret_key.clone()));
            builder.build()
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(async move {
            let server = Builder::new(TokioExecutor::new());
            while let Ok((socket, _)) = listener.accept().await {
                let connection = server.serve_connection(TokioIo::new(socket), service.clone());
                tokio::spawn(connection.into_owned());
            }
        });
        let region = "us-east-1".to_owned();
        Self { endpoint, access_key, secret_key, region, bucket, faults, root, task }
    }

    /// How to reach the bucket, in the smallest parts.
    pub(crate) fn settings(&self) -> S3Settings {
        S3Settings {
            bucket: self.bucket.clone(),
            region: self.region.clone(),
            endpoint: Some(self.endpoint.clone()),
            force_path_style: true,
            keys: Some((self.access_key.clone().into(), self.secret_key.clone().into())),
            part_size: S3Settings::MIN_PART_SIZE,
        }
    }

    /// The file that holds an object's content.
    pub(crate) fn object_path(&self, key: &str) -> PathBuf {
        self.root.path().join(&self.bucket).join(key)
    }

    /// Names of the objects at the top of the bucket, sorted.
    pub(crate) fn objects(&self) -> Vec<String> {
        let mut names = names(&self.root.path().join(&self.bucket));
        names.retain(|name| name != "layer-index");
        names
    }

    /// Begins a multipart upload of `key` and leaves it at that.
    pub(crate) async fn begin_upload(&self, key: &str) {
        let keys = aws_sdk_s3::config::Credentials::new(
            &self.access_key,
            &self.secret_key,
            None,
            None,
            "test",
        );
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(aws_sdk_s3::config::BehaviorVersion::v2026_01_12())
            .region(aws_sdk_s3::config::Region::new(self.region.clone()))
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .credentials_provider(keys)
            .endpoint_url(&self.endpoint)
            .force_path_style(true)
            .build();
        let client = aws_sdk_s3::Client::from_conf(config);
        client.create_multipart_upload().bucket(&self.bucket).key(key).send().await.unwrap();
    }

    /// How many multipart uploads were begun and neither completed nor aborted.
    pub(crate) fn pending_uploads(&self) -> usize {
        names(self.root.path()).iter().filter(|name| name.starts_with(".upload-")).count()
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

struct Layer {
    files: FileSystem,
    faults: Arc<Faults>,
    writing: Mutex<()>,
    /// Uploads that have not ended: s3s-fs can't list them.
    uploads: Mutex<Vec<MultipartUpload>>,
}

impl Layer {
    async fn ended(&self, upload: &str) {
        let mut uploads = self.uploads.lock().await;
        uploads.retain(|open| open.upload_id.as_deref() != Some(upload));
    }

    fn up(&self) -> S3Result<()> {
        if self.faults.down.load(Ordering::SeqCst) {
            return Err(s3_error!(SlowDown, "injected"));
        }
        Ok(())
    }

    async fn part_fault(&self, number: i32) -> S3Result<()> {
        let applies = |from: &AtomicU32| {
            let from = from.load(Ordering::SeqCst);
            from != 0 && u32::try_from(number).is_ok_and(|number| number >= from)
        };
        if applies(&self.faults.fail_parts_from) {
            return Err(s3_error!(InternalError, "injected"));
        }
        if applies(&self.faults.hold_parts_from) {
            self.faults.held.notify_one();
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

/// Operations that pass through while the server is up.
macro_rules! forward {
    ($($name:ident: $input:ty => $output:ty),* $(,)?) => {
        #[async_trait]
        impl S3 for Layer {
            $(async fn $name(&self, request: S3Request<$input>) -> S3Result<S3Response<$output>> {
                self.up()?;
                self.files.$name(request).await
            })*

            async fn put_object(
                &self,
                request: S3Request<PutObjectInput>,
            ) -> S3Result<S3Response<PutObjectOutput>> {
                self.up()?;
                let _one_at_a_time = self.writing.lock().await;
                self.files.put_object(request).await
            }

            async fn create_multipart_upload(
                &self,
                request: S3Request<CreateMultipartUploadInput>,
            ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
                self.up()?;
                let key = request.input.key.clone();
                let created = self.files.create_multipart_upload(request).await?;
                let upload = MultipartUpload {
                    key: Some(key),
                    upload_id: created.output.upload_id.clone(),
                    initiated: Some(std::time::SystemTime::now().into()),
                    ..MultipartUpload::default()
                };
                self.uploads.lock().await.push(upload);
                Ok(created)
            }

            async fn list_multipart_uploads(
                &self,
                _: S3Request<ListMultipartUploadsInput>,
            ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
                self.up()?;
                let uploads = Some(self.uploads.lock().await.clone());
                let listed = ListMultipartUploadsOutput { uploads, ..Default::default() };
                Ok(S3Response::new(listed))
            }

            async fn upload_part(
                &self,
                request: S3Request<UploadPartInput>,
            ) -> S3Result<S3Response<UploadPartOutput>> {
                self.up()?;
                self.part_fault(request.input.part_number).await?;
                self.files.upload_part(request).await
            }

            async fn complete_multipart_upload(
                &self,
                request: S3Request<CompleteMultipartUploadInput>,
            ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
                self.up()?;
                if self.faults.fail_completions.load(Ordering::SeqCst) {
                    return Err(s3_error!(InternalError, "injected"));
                }
                self.faults.cancel_at_completion.lock().unwrap().cancel();
                let _one_at_a_time = self.writing.lock().await;
                let upload = request.input.upload_id.clone();
                let completed = self.files.complete_multipart_upload(request).await;
                if completed.is_ok() {
                    self.ended(&upload).await;
                }
                completed
            }

            async fn abort_multipart_upload(
                &self,
                request: S3Request<AbortMultipartUploadInput>,
            ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
                self.up()?;
                let upload = request.input.upload_id.clone();
                let aborted = self.files.abort_multipart_upload(request).await;
                self.ended(&upload).await;
                self.faults.aborted.notify_one();
                aborted
            }
        }
    };
}

forward! {
    get_object: GetObjectInput => GetObjectOutput,
    copy_object: CopyObjectInput => CopyObjectOutput,
    head_object: HeadObjectInput => HeadObjectOutput,
    head_bucket: HeadBucketInput => HeadBucketOutput,
    delete_object: DeleteObjectInput => DeleteObjectOutput,
    list_objects_v2: ListObjectsV2Input => ListObjectsV2Output,
}
