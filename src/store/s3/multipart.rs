//! An upload in parts. One that is not completed must be aborted, since its parts would be stored
//! and paid for otherwise.

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use tokio::task::JoinSet;

use super::S3Store;
use super::failure::Failure;
use super::published::DIGEST_METADATA;
use crate::digest::Digest;
use crate::store::{Key, Overwrite, StoreError};

/// S3's limit for one upload.
pub(super) const MAX_PARTS: u64 = 10_000;

/// One upload.
pub(super) struct Multipart<'a> {
    store: &'a S3Store,
    key: &'a Key,
    id: String,
    concurrency: usize,
    sending: JoinSet<Result<CompletedPart, Failure>>,
    sent: Vec<CompletedPart>,
}

impl<'a> Multipart<'a> {
    /// Begins one that sends at most `concurrency` parts at a time.
    pub(super) async fn begin(
        store: &'a S3Store,
        key: &'a Key,
        digest: Option<Digest>,
        concurrency: usize,
    ) -> Result<Self, StoreError> {
        let mut request =
            store.client.create_multipart_upload().bucket(&store.bucket).key(key.as_str());
        if let Some(digest) = digest {
            request = request.metadata(DIGEST_METADATA, digest.hex());
        }
        let begun = request.send().await.map_err(Failure::from);
        let begun = begun.map_err(|failure| failure.into_error(store, format!("write {key}")))?;
        let id = begun.upload_id().unwrap_or_default().to_owned();
        Ok(Self { store, key, id, concurrency, sending: JoinSet::new(), sent: Vec::new() })
    }

    /// Sends a part, when enough of those before have arrived.
    pub(super) async fn send(&mut self, number: i32, content: Bytes) -> Result<(), StoreError> {
        if self.sending.len() >= self.concurrency {
            self.arrived().await?;
        }
        let request = self
            .store
            .client
            .upload_part()
            .bucket(&self.store.bucket)
            .key(self.key.as_str())
            .upload_id(&self.id)
            .part_number(number)
            .body(ByteStream::from(content));
        self.sending.spawn(async move {
            let part = request.send().await.map_err(Failure::from)?;
            Ok(CompletedPart::builder()
                .part_number(number)
                .set_e_tag(part.e_tag().map(str::to_owned))
                .build())
        });
        Ok(())
    }

    /// Waits for every part that is on its way.
    pub(super) async fn all_arrived(&mut self) -> Result<(), StoreError> {
        while self.arrived().await? {}
        Ok(())
    }

    /// Waits for one part; `false` if none is on its way.
    async fn arrived(&mut self) -> Result<bool, StoreError> {
        match self.sending.join_next().await {
            None => return Ok(false),
            Some(Ok(Ok(part))) => self.sent.push(part),
            Some(Ok(Err(failure))) => return Err(self.failed(failure)),
            Some(Err(error)) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => return Err(StoreError::Cancelled { key: self.key.clone() }),
            },
        }
        Ok(true)
    }

    /// Makes the object visible.
    pub(super) async fn complete(&mut self, overwrite: &Overwrite) -> Result<(), Failure> {
        let (if_none_match, if_match) = conditions(overwrite);
        let mut parts = std::mem::take(&mut self.sent);
        parts.sort_by_key(CompletedPart::part_number);
        let completed = self
            .store
            .client
            .complete_multipart_upload()
            .bucket(&self.store.bucket)
            .key(self.key.as_str())
            .upload_id(&self.id)
            .set_if_none_match(if_none_match)
            .set_if_match(if_match)
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts)).build())
            .send()
            .await;
        completed.map(|_| ()).map_err(Failure::from)
    }

    /// Takes back whatever was sent.
    pub(super) async fn abort(mut self) {
        self.sending.shutdown().await; // a part that arrives after would stay
        let aborted = self
            .store
            .client
            .abort_multipart_upload()
            .bucket(&self.store.bucket)
            .key(self.key.as_str())
            .upload_id(&self.id)
            .send()
            .await
            .map_err(Failure::from);
        if let Err(failure) = aborted
            && failure.code.as_deref() != Some("NoSuchUpload")
        {
            let error = self.failed(failure);
            tracing::warn!(key = %self.key, %error, "a multipart upload could not be aborted");
        }
    }

    fn failed(&self, failure: Failure) -> StoreError {
        failure.into_error(self.store, format!("write {}", self.key))
    }
}

/// The headers `If-None-Match` and `If-Match`, which make the server decide between concurrent writers.
pub(super) fn conditions(overwrite: &Overwrite) -> (Option<String>, Option<String>) {
    match overwrite {
        Overwrite::Never => (Some("*".to_owned()), None),
        Overwrite::Replace => (None, None),
        Overwrite::Seen(version) => (None, Some(version.to_string())),
    }
}
