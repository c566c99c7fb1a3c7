//! The store that is an S3 bucket, AWS's or a compatible server's (CONTRACT section C).
//!
//! Requests are retried by the SDK; what it gives up on is the caller's to retry. Checksums beyond
//! the signed payload are sent only where S3 requires them, since many compatible servers know
//! none. `upload` holds the way of a put, `stream` that of an object that is made on the way.

use std::path::Path;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::types::MetadataDirective;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use bytes::{Bytes, BytesMut};
use secrecy::{ExposeSecret, SecretString};
use tokio_util::sync::CancellationToken;

use super::{
    Bucket, CommitReport, Key, Leftover, ListedObject, NewObject, ObjectStat, ObjectStore,
    ObjectVersion, Overwrite, Put, StoreError, supervise,
};
use crate::digest::Digest;

/// Uploads that never ended.
mod abandoned;
/// What the SDK's errors mean to us.
mod failure;
/// An upload in parts.
mod multipart;
/// Which content is there now.
mod published;
/// An object whose bytes come piece by piece.
mod stream;
/// The way of a put.
mod upload;

use failure::Failure;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for one try of a request; reading an answer's body is watched by the SDK for stalls.
const ATTEMPT_TIMEOUT: Duration = Duration::from_mins(5);
/// Servers read offsets as signed numbers.
const MAX_OFFSET: u64 = i64::MAX as u64 - 1;

/// How to reach a bucket (beta9's `imageService.registries.s3`).
#[derive(Debug, Clone)]
pub struct S3Settings {
    /// Bucket name.
    pub bucket: String,
    /// Region; S3-likes mostly ignore it.
    pub region: String,
    /// Base address of an S3-like; `None` is AWS itself.
    pub endpoint: Option<String>,
    /// Put the bucket into the path rather than into the host name.
    pub force_path_style: bool,
    /// Access key and secret key; `None` asks the ambient AWS chain.
    pub keys: Option<(SecretString, SecretString)>,
    /// Bytes in a part of a multipart upload; files up to this size go up in one request. A few
    /// parts are in memory at a time.
    pub part_size: u64,
}

impl S3Settings {
    /// The part size when none is configured, in bytes.
    pub const DEFAULT_PART_SIZE: u64 = 16 << 20;
    /// The smallest part that S3 accepts, in bytes.
    pub const MIN_PART_SIZE: u64 = 5 << 20;
    /// The largest part that we hold in memory, in bytes.
    pub const MAX_PART_SIZE: u64 = 256 << 20;
}

/// No object has this name: the answer shows whether the bucket can be used.
const CHECK_KEY: &str = ".clipwright-check";

/// Objects in one bucket.
#[derive(Debug, Clone)]
pub struct S3Store {
    client: Client,
    bucket: String,
    region: String,
    endpoint: Option<String>,
    force_path_style: bool,
    part_size: u64,
}

impl S3Store {
    /// Makes a client for the bucket; without explicit keys the ambient AWS chain (environment,
    /// profile, web identity, container and instance roles) gives the credentials.
    pub async fn open(settings: &S3Settings) -> Self {
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .build_https();
        let version = BehaviorVersion::v2026_01_12();
        let region = Region::new(settings.region.clone());
        let builder = if let Some((access, secret)) = &settings.keys {
            let (access, secret) = (access.expose_secret(), secret.expose_secret());
            aws_sdk_s3::Config::builder()
                .behavior_version(version)
                .region(region)
                .http_client(http)
                .credentials_provider(Credentials::new(access, secret, None, None, "settings"))
        } else {
            let ambient =
                aws_config::defaults(version).region(region).http_client(http).load().await;
            aws_sdk_s3::config::Builder::from(&ambient)
        };
        let mut builder = builder
            .force_path_style(settings.force_path_style)
            .retry_config(RetryConfig::standard())
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(CONNECT_TIMEOUT)
                    .operation_attempt_timeout(ATTEMPT_TIMEOUT)
                    .build(),
            )
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        // The ambient configuration may name an endpoint, which ours replaces only when it is set.
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.endpoint_url(endpoint);
        }
        let part_size =
            settings.part_size.clamp(S3Settings::MIN_PART_SIZE, S3Settings::MAX_PART_SIZE);
        Self {
            client: Client::from_conf(builder.build()),
            bucket: settings.bucket.clone(),
            region: settings.region.clone(),
            endpoint: settings.endpoint.clone(),
            force_path_style: settings.force_path_style,
            part_size,
        }
    }

    /// Where readers without us find the objects.
    pub fn place(&self) -> Bucket {
        Bucket {
            name: self.bucket.clone(),
            region: self.region.clone(),
            endpoint: self.endpoint.clone(),
            force_path_style: self.force_path_style,
        }
    }

    /// Where whoever has the address can read an object for a while, whatever its name is; nobody is asked.
    pub(crate) async fn address(
        &self,
        key: &str,
        lifetime: Duration,
    ) -> Result<String, StoreError> {
        let failed = |reason: String| StoreError::Rejected {
            store: self.describe(),
            action: format!("sign an address of {key}"),
            reason,
        };
        let lifetime =
            PresigningConfig::expires_in(lifetime).map_err(|error| failed(error.to_string()))?;
        let request = self.client.get_object().bucket(&self.bucket).key(key);
        match request.presigned(lifetime).await {
            Ok(signed) => Ok(signed.uri().to_owned()),
            Err(error) => Err(failed(failure::chain(&error))),
        }
    }

    /// Whether the object that is there now, if any, may be replaced. Servers that know no
    /// conditions are asked so; the others decide when they write.
    async fn may_replace(&self, key: &Key, overwrite: &Overwrite) -> Result<bool, StoreError> {
        Ok(match overwrite {
            Overwrite::Replace => true,
            Overwrite::Never => self.stat(key).await?.is_none(),
            Overwrite::Seen(seen) => {
                self.stat(key).await?.is_some_and(|found| found.version == *seen)
            }
        })
    }

    fn not_found(&self, key: &Key) -> StoreError {
        StoreError::NotFound { key: key.clone(), store: self.describe() }
    }

    /// Collects the body of a ranged answer, after checking that it is the range asked for.
    async fn collect(
        &self,
        key: &Key,
        offset: u64,
        len: u64,
        answer: GetObjectOutput,
    ) -> Result<Bytes, StoreError> {
        let failed = |reason: String| StoreError::Unavailable {
            store: self.describe(),
            action: format!("read {len} bytes of {key} from {offset}"),
            reason,
        };
        let range = answer.content_range().unwrap_or("no range").to_owned();
        let expected = parse_content_range(&range)
            .filter(|(first, _, size)| *first == offset && offset < *size)
            .map(|(_, last, size)| (last, len.min(size - offset)))
            .filter(|(last, expected)| last.checked_sub(offset) == Some(expected - 1))
            .map(|(_, expected)| expected)
            .ok_or_else(|| failed(format!("it answered with {range}")))?;

        let mut body = answer.body;
        let mut bytes = BytesMut::new();
        while let Some(chunk) = body.next().await {
            bytes.extend_from_slice(&chunk.map_err(|e| failed(failure::chain(&e)))?);
            if bytes.len() as u64 > expected {
                break;
            }
        }
        if bytes.len() as u64 != expected {
            return Err(failed(format!("expected {expected} bytes, found {}", bytes.len())));
        }
        Ok(bytes.freeze())
    }
}

#[async_trait]
impl ObjectStore for S3Store {
    fn describe(&self) -> String {
        format!("S3 bucket {}", self.bucket)
    }

    async fn put(
        &self,
        key: &Key,
        file: &Path,
        digest: Digest,
        overwrite: Overwrite,
        cancel: &CancellationToken,
    ) -> Result<Put, StoreError> {
        let token = cancel.child_token();
        let task = tokio::spawn({
            let (store, key, file, token) =
                (self.clone(), key.clone(), file.to_owned(), token.clone());
            async move { Box::pin(upload::put(&store, &key, &file, digest, overwrite, &token)).await }
        });
        supervise(key, token, task).await
    }

    async fn create(&self, key: &Key, cancel: &CancellationToken) -> Result<NewObject, StoreError> {
        Ok(stream::begin(self, key, cancel))
    }

    async fn stat(&self, key: &Key) -> Result<Option<ObjectStat>, StoreError> {
        let request = self.client.head_object().bucket(&self.bucket).key(key.as_str());
        match request.send().await.map_err(Failure::from) {
            Ok(found) => {
                let size = found.content_length().and_then(|size| u64::try_from(size).ok());
                let version = ObjectVersion(found.e_tag().unwrap_or_default().to_owned());
                Ok(Some(ObjectStat { size: size.unwrap_or(0), version }))
            }
            Err(failure) if failure.is_missing_object() => Ok(None),
            Err(failure) => Err(failure.into_error(self, format!("look up {key}"))),
        }
    }

    async fn read(&self, key: &Key, offset: u64, len: u64) -> Result<Bytes, StoreError> {
        if len == 0 || offset > MAX_OFFSET {
            return match self.size(key).await? {
                Some(_) => Ok(Bytes::new()),
                None => Err(self.not_found(key)),
            };
        }
        let last = offset.saturating_add(len - 1).min(MAX_OFFSET);
        let request = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(key.as_str())
            .range(format!("bytes={offset}-{last}"));
        match request.send().await.map_err(Failure::from) {
            Ok(answer) => self.collect(key, offset, len, answer).await,
            Err(failure) if failure.status == Some(416) => Ok(Bytes::new()),
            Err(failure) if failure.is_missing_object() => Err(self.not_found(key)),
            Err(failure) => Err(failure.into_error(self, format!("read {key}"))),
        }
    }

    /// S3 itself copies without conditions: what is there is looked at right before.
    async fn copy(
        &self,
        from: &Key,
        to: &Key,
        overwrite: Overwrite,
    ) -> Result<CommitReport, StoreError> {
        if !self.may_replace(to, &overwrite).await? {
            return Ok(CommitReport::Taken);
        }
        let source = format!("{}/{from}", self.bucket);
        let request = self.client.copy_object().copy_source(source).bucket(&self.bucket);
        match request.key(to.as_str()).send().await.map_err(Failure::from) {
            Ok(_) => Ok(CommitReport::Written),
            Err(failure) if failure.is_missing_object() => Err(self.not_found(from)),
            Err(failure) => Err(failure.into_error(self, format!("copy {from} to {to}"))),
        }
    }

    async fn presign(&self, key: &Key, lifetime: Duration) -> Result<Option<String>, StoreError> {
        self.address(key.as_str(), lifetime).await.map(Some)
    }

    async fn list(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<ListedObject>, StoreError> {
        let mut listed = Vec::new();
        let mut next = None;
        while listed.len() < limit {
            let request = self
                .client
                .list_objects_v2()
                .bucket(&self.bucket)
                .prefix(prefix)
                .delimiter("/")
                .set_start_after((!after.is_empty()).then(|| after.to_owned()))
                .set_continuation_token(next);
            let answer = request
                .send()
                .await
                .map_err(|error| Failure::from(error).into_error(self, "list it".to_owned()))?;
            let objects = answer.contents.unwrap_or_default().into_iter();
            // Keys that we would never make are not ours.
            listed.extend(objects.filter_map(|object| {
                let size = object.size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
                let modified = abandoned::time(object.last_modified()?)?;
                Some(ListedObject { key: object.key?.parse().ok()?, size, modified })
            }));
            next = answer.next_continuation_token;
            if next.is_none() {
                break;
            }
        }
        listed.truncate(limit);
        Ok(listed)
    }

    /// Copies the object onto itself, which S3 does without the content passing by here.
    async fn touch(&self, key: &Key, age: Duration) -> Result<bool, StoreError> {
        let failed = |failure: Failure| match failure {
            failure if failure.is_missing_object() => Ok(false),
            failure => Err(failure.into_error(self, format!("touch {key}"))),
        };
        let head = self.client.head_object().bucket(&self.bucket).key(key.as_str());
        let head = match head.send().await.map_err(Failure::from) {
            Ok(head) => head,
            Err(failure) => return failed(failure),
        };
        let modified = head.last_modified().and_then(|at| SystemTime::try_from(*at).ok());
        let found = modified.and_then(|at| SystemTime::now().duration_since(at).ok());
        if found.is_none_or(|found| found <= age) {
            return Ok(true);
        }
        let copy = self
            .client
            .copy_object()
            .copy_source(format!("{}/{key}", self.bucket))
            .bucket(&self.bucket)
            .key(key.as_str())
            // An object is copied onto itself only if something of it is replaced.
            .metadata_directive(MetadataDirective::Replace)
            .set_metadata(head.metadata().cloned());
        match copy.send().await.map_err(Failure::from) {
            Ok(_) => Ok(true),
            Err(failure) => failed(failure),
        }
    }

    async fn leftovers(&self, age: Duration) -> Result<Vec<Leftover>, StoreError> {
        abandoned::left_behind(self, age).await
    }

    async fn remove_leftover(&self, leftover: &Leftover) -> Result<(), StoreError> {
        let abort = self
            .client
            .abort_multipart_upload()
            .bucket(&self.bucket)
            .key(&leftover.name)
            .upload_id(&leftover.id);
        match abort.send().await.map_err(Failure::from) {
            Err(failure) if failure.code.as_deref() != Some("NoSuchUpload") => {
                Err(failure.into_error(self, format!("abort an upload of {}", leftover.name)))
            }
            _ => Ok(()),
        }
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let request = self.client.delete_object().bucket(&self.bucket).key(key.as_str());
        match request.send().await.map_err(Failure::from) {
            Ok(_) => Ok(()),
            Err(failure) if failure.is_missing_object() => Ok(()),
            Err(failure) => Err(failure.into_error(self, format!("delete {key}"))),
        }
    }

    async fn check(&self) -> Result<(), StoreError> {
        let failed = |failure: Failure| failure.into_error(self, "find the bucket".to_owned());
        match self.client.head_bucket().bucket(&self.bucket).send().await.map_err(Failure::from) {
            Ok(_) => return Ok(()),
            // Who may read and write objects may not be allowed to ask for the bucket itself.
            Err(failure) if failure.status == Some(403) => {}
            Err(failure) => return Err(failed(failure)),
        }
        let request = self.client.get_object().bucket(&self.bucket).key(CHECK_KEY);
        match request.send().await.map_err(Failure::from) {
            Err(failure) if !failure.is_of_the_bucket() => Err(failed(failure)),
            _ => Ok(()),
        }
    }
}

/// Reads `bytes FIRST-LAST/SIZE` (RFC 9110, section 14.4).
fn parse_content_range(text: &str) -> Option<(u64, u64, u64)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?, size.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        assert_eq!(parse_content_range("bytes 5-9/10"), Some((5, 9, 10)));
        for text in ["", "no range", "bytes */10", "bytes 5-9/*", "bytes 5/10", "5-9/10"] {
            assert_eq!(parse_content_range(text), None, "{text:?}");
        }
    }

    #[test]
    fn keys_never_print() {
        let settings = S3Settings {
            bucket: "b".into(),
            region: "r".into(),
            endpoint: None,
            force_path_style: false,
            keys: Some(("AKIA-visible".into(), "secret-visible".into())),
            part_size: S3Settings::DEFAULT_PART_SIZE,
        };
        assert!(!format!("{settings:?}").contains("visible"));
    }
}
