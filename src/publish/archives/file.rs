//! In a directory or a registry an archive is one object, `<id>.clip` (CONTRACT section C).

use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::objects::{Layout, key};
use super::{ArchiveName, Draft, UnusedData};
use crate::archive::index::ArchiveFile;
use crate::archive::pack::{PackedImage, Sink};
use crate::image_id::ImageId;
use crate::publish::PublishError;
use crate::publish::stored::{judge, may_replace};
use crate::store::{Commit, CommitReport, Key, NewObject, ObjectStore, Overwrite, Put};

/// One object an archive.
#[derive(Debug, Clone, Copy)]
pub struct OneFile;

const EXTENSION: &str = "clip";

#[async_trait]
impl Layout for OneFile {
    fn extension(&self) -> &'static str {
        EXTENSION
    }

    async fn draft(
        &self,
        objects: &Arc<dyn ObjectStore>,
        name: &ArchiveName,
        overwrite: Overwrite,
        cancel: &CancellationToken,
    ) -> Result<Box<dyn Draft>, PublishError> {
        let key = key(name, EXTENSION);
        // Where it may not go it is made for nobody and compared.
        let (sink, commit) = if may_replace(&**objects, &key, &overwrite).await? {
            let NewObject { sink, commit } = objects.create(&key, cancel).await?;
            (sink, Some(commit))
        } else {
            (Box::new(std::io::sink()) as Sink, None)
        };
        let (objects, sink) = (objects.clone(), Some(sink));
        Ok(Box::new(FileDraft { objects, key, overwrite, sink, commit }))
    }

    fn data(&self, _: &ImageId) -> Option<Key> {
        None
    }

    async fn unused(
        &self,
        _: &Arc<dyn ObjectStore>,
        _: &str,
    ) -> Result<Vec<UnusedData>, PublishError> {
        Ok(Vec::new())
    }
}

struct FileDraft {
    objects: Arc<dyn ObjectStore>,
    key: Key,
    overwrite: Overwrite,
    sink: Option<Sink>,
    commit: Option<Box<dyn Commit>>,
}

#[async_trait]
impl Draft for FileDraft {
    fn sink(&mut self) -> Sink {
        self.sink.take().unwrap_or_else(|| Box::new(std::io::sink()))
    }

    async fn finish(
        self: Box<Self>,
        packed: &PackedImage,
    ) -> Result<(ArchiveFile, Put), PublishError> {
        let Self { objects, key, overwrite, commit, .. } = *self;
        let archive = ArchiveFile { size: packed.size, digest: packed.digest };
        let committed = match commit {
            Some(commit) => commit.finish(&packed.head, overwrite).await?,
            None => CommitReport::Taken,
        };
        let put = match committed {
            CommitReport::Written => Put::Written,
            CommitReport::Taken => judge(&*objects, &key, packed.digest).await?,
        };
        Ok((archive, put))
    }

    async fn abort(self: Box<Self>) -> Option<PublishError> {
        self.commit?.abort().await.map(Into::into)
    }
}
