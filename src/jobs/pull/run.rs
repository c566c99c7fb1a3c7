//! The way of one pull: layers, tree, archive, store, as the [`Policy`] decides from what is found
//! on the way. The archive goes into the store last: its presence there is the commit.

use std::sync::Arc;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::choose::ChosenVersion;
use super::decide::{Decision, Finding, Policy};
use super::findings;
use super::{PullError, Puller};
use crate::archive::index::ArchiveFile;
use crate::archive::{
    ArchiveError, IndexOptions, IndexedImage, LayerPolicy, PackOptions, Summary, index_image,
};
use crate::clip::{ClipError, MAX_INDEX_BYTES, WARN_INDEX_BYTES};
use crate::error::Classify as _;
use crate::jobs::job::{ArchiveObject, EventKind, ImageId, JobKind, VersionReport};
use crate::jobs::phase::phase;
use crate::jobs::worker::{EventSink, Fence};
use crate::local::drop_aside;
use crate::oci::{ImageSource, Publisher, ResolvedImage, Source};
use crate::progress::Progress;
use crate::publish::archives::ArchiveName;
use crate::publish::{Publication, Republication, RepublishedImage};
use crate::store::{Key, Overwrite};
use crate::telemetry::metrics::{archive_published, index_built, v1_extracted};

/// One pull.
pub(super) struct PullRun<'a> {
    pub(super) puller: &'a Puller,
    pub(super) index: IndexOptions,
    /// The kind of the job that it is for.
    pub(super) kind: JobKind,
    pub(super) id: &'a ImageId,
    pub(super) policy: Policy,
    /// The version that the job itself asked for.
    pub(super) requested: Option<u8>,
    /// What was decided before the image was looked at.
    pub(super) chosen: ChosenVersion,
    /// What is there may be replaced.
    pub(super) force: bool,
    pub(super) fence: &'a Fence,
    pub(super) events: &'a EventSink,
    pub(super) progress: Arc<dyn Progress>,
    pub(super) cancel: &'a CancellationToken,
}

/// An image, and where its layers are.
pub(super) struct ResolvedSource {
    pub(super) source: Source,
    pub(super) image: ResolvedImage,
}

/// An archive that is in the store.
pub(in crate::jobs) struct PublishedArchive {
    pub(in crate::jobs) summary: Summary,
    pub(in crate::jobs) archive: ArchiveObject,
    pub(in crate::jobs) version: VersionReport,
    /// The image as it was found, if the archive is of a re-published one.
    pub(in crate::jobs) republished_from: Option<String>,
}

impl PullRun<'_> {
    /// Makes the archive that the policy allows for.
    pub(super) async fn make(
        &self,
        mut found: ResolvedSource,
    ) -> Result<PublishedArchive, PullError> {
        let mut policy = self.policy;
        let mut decision = policy.decide(&findings::of_manifest(&found.image));
        let mut republished_from = None;
        loop {
            decision = match decision {
                Decision::Refuse(finding) => return Err(PullError::NotV2 { finding }),
                Decision::V1 { because } => {
                    return Ok(PublishedArchive {
                        republished_from,
                        ..self.v1(&found, because).await?
                    });
                }
                Decision::Republish => {
                    republished_from = Some(found.image.reference.to_string());
                    found = self.republish(&found).await?;
                    // Its layers are gzip now. Were one not, doing it again would never end.
                    policy.layers = LayerPolicy::Refuse;
                    policy.decide(&[])
                }
                Decision::V2 => match self.v2(&found, policy).await? {
                    Ok(made) => return Ok(PublishedArchive { republished_from, ..made }),
                    Err(decision) => decision,
                },
            };
        }
    }

    /// A v2 archive, or what to make instead.
    async fn v2(
        &self,
        found: &ResolvedSource,
        policy: Policy,
    ) -> Result<Result<PublishedArchive, Decision>, PullError> {
        let ResolvedSource { source, image } = found;
        let layers = policy.layers;
        let options = IndexOptions { layers, ..self.index.clone() };
        let started = Instant::now();
        let indexing = index_image(source, image, &options, self.progress.clone(), self.cancel);
        let indexed = match phase(self.events, self.kind, "index", indexing).await {
            Ok(indexed) => indexed,
            Err(error) => return instead(policy, error),
        };
        let decision = policy.decide(&findings::of_tree(&indexed.tree));
        if !matches!(decision, Decision::V2) {
            return Ok(Err(decision));
        }
        let no_scratch = |source| self.puller.no_scratch(source);
        let scratch = tempfile::tempdir_in(&self.puller.scratch).map_err(no_scratch)?;
        let file = scratch.path().join("archive");
        let writing = self.write(indexed, &file);
        let (mut indexed, mut written) = phase(self.events, self.kind, "write", writing).await?;
        if let Err(ArchiveError::Clip(ClipError::TooLarge { size, .. })) = written
            && indexed.span.take().is_some()
        {
            let warning = format!(
                "the archive would be {size} bytes, and beta9's workers refuse more than \
                 {MAX_INDEX_BYTES}: it is made without the table that lets files be read alone"
            );
            self.warn(&mut indexed.warnings, warning);
            (indexed, written) = self.write(indexed, &file).await?;
        }
        let written = match written {
            Ok(written) => written,
            Err(error) => return instead(policy, error),
        };
        index_built(written.size, started.elapsed());
        if written.size > WARN_INDEX_BYTES {
            let warning = format!(
                "the archive is {} bytes; beta9's workers refuse more than {MAX_INDEX_BYTES}",
                written.size
            );
            self.warn(&mut indexed.warnings, warning);
        }
        let archives = &self.puller.archives;
        let key = archives.key(&ArchiveName::Image(self.id.clone()));
        let ownership = self.ownership(&key).await?;
        let overwrite = ownership.overwrite.clone();
        let publishing = archives.publish(&key, &file, written.digest, overwrite, self.cancel);
        let put = phase(self.events, self.kind, "publish", publishing).await;
        ownership.judge(put.map_err(PullError::from))?;
        let summary = Summary::of(image, &indexed);
        drop_aside(indexed);
        Ok(Ok(self.made(summary, &key, written, None)))
    }

    async fn v1(
        &self,
        found: &ResolvedSource,
        because: Option<Finding>,
    ) -> Result<PublishedArchive, PullError> {
        let ResolvedSource { source, image } = found;
        if let Some(finding) = &because {
            tracing::info!(image_id = %self.id, code = finding.code(), %finding, "fell back to v1");
            self.events.send(EventKind::FellBack(self.report(1, Some(finding))));
        }
        let name = ArchiveName::Image(self.id.clone());
        let ownership = self.ownership(&self.puller.archives.key(&name)).await?;
        let IndexOptions { limits, budget, account, .. } = self.index.clone();
        let publication = Publication {
            source,
            image,
            options: &PackOptions { limits, budget, account },
            archives: &*self.puller.archives,
            name: &name,
            overwrite: ownership.overwrite.clone(),
        };
        let started = Instant::now();
        let packing = publication.pack(self.progress.clone(), self.cancel);
        let packed = phase(self.events, self.kind, "pack", packing).await;
        let (draft, packed) = packed.map_err(PullError::from)?;
        // Packing may have taken hours: somebody else may have the job by now.
        if let Err(error) = self.fence.check().await {
            draft.abort().await;
            return Err(error.into());
        }
        let finished = phase(self.events, self.kind, "publish", draft.finish(&packed)).await;
        let (archive, _) = ownership.judge(finished.map_err(PullError::from))?;
        v1_extracted(archive.size, started.elapsed());
        let summary = Summary::of_packed(image, &packed);
        let key = self.puller.archives.key(&name);
        Ok(self.made(summary, &key, archive, because.as_ref()))
    }

    /// The image with all layers in gzip, in the build registry under the image's id.
    async fn republish(&self, found: &ResolvedSource) -> Result<ResolvedSource, PullError> {
        let ResolvedSource { source, image } = found;
        let (puller, cancel) = (self.puller, self.cancel);
        let (registry, operator) = (&puller.build_registry, puller.oci.of_operator());
        let same = image.reference.registry == registry.host;
        let publisher = Publisher::open(
            &registry.host,
            &registry.repository,
            same.then_some(image.reference.repository.as_str()),
            &operator,
            registry.credentials.clone(),
        )
        .await?;
        let republication = Republication {
            source,
            image,
            publisher: &publisher,
            tag: self.id.as_str(),
            limits: puller.index.limits,
            budget: &puller.index.budget,
        };
        let RepublishedImage { reference, compressed } = phase(
            self.events,
            self.kind,
            "republish",
            republication.publish(self.progress.clone(), cancel),
        )
        .await?;
        self.events.send(EventKind::Republished {
            reference: reference.to_string(),
            layers: compressed as u64,
        });
        let (manifest, credentials) = (reference.digest(), registry.credentials.clone());
        let source =
            Source::open(&ImageSource::Registry(reference), &operator, credentials).await?;
        let copy = source.resolve_pinned(manifest, &image.platform, cancel).await?;
        // What the index said of it, and what was odd about it, is not in the copy.
        let ResolvedImage { platform, warnings, .. } = image.clone();
        Ok(ResolvedSource { source, image: ResolvedImage { platform, warnings, ..copy } })
    }

    async fn write(
        &self,
        indexed: IndexedImage,
        file: &std::path::Path,
    ) -> Result<(IndexedImage, Result<ArchiveFile, ArchiveError>), PullError> {
        let file = file.to_owned();
        let writing = tokio::task::spawn_blocking(move || {
            let written = indexed.write(&file);
            (indexed, written)
        });
        writing.await.map_err(|died| self.puller.no_scratch(std::io::Error::other(died)))
    }

    /// Asked before anything is published: whether the job is still ours, and whose the image id is.
    ///
    /// What is there is looked at before the fence is asked, so that what somebody puts there who took
    /// the job over in between is not replaced.
    async fn ownership(&self, key: &Key) -> Result<Ownership, PullError> {
        let seen = if self.force { self.puller.archives.stat(key).await? } else { None };
        let own = self.fence.owns_archive().await?;
        let overwrite = Overwrite::only(seen.filter(|_| own).map(|seen| seen.version));
        Ok(Ownership { own, overwrite })
    }

    fn warn(&self, warnings: &mut Vec<String>, warning: String) {
        self.events.send(EventKind::Warning { message: warning.clone() });
        warnings.push(warning);
    }

    fn made(
        &self,
        summary: Summary,
        key: &Key,
        written: ArchiveFile,
        because: Option<&Finding>,
    ) -> PublishedArchive {
        let version = self.report(summary.clip_version, because);
        let ArchiveFile { size, digest } = written;
        let reason = because.map_or("", Finding::code);
        archive_published(version.decided, version.produced, reason, size);
        let archive = ArchiveObject { key: key.to_string(), size, digest };
        PublishedArchive { summary, archive, version, republished_from: None }
    }

    fn report(&self, produced: u8, because: Option<&Finding>) -> VersionReport {
        VersionReport {
            requested: self.requested,
            decided: self.policy.wanted as u8,
            decided_by: Some(self.chosen.decided_by),
            rollout: self.chosen.rollout.clone(),
            produced,
            code: because.map(|finding| finding.code().to_owned()),
            reason: because.map(ToString::to_string),
        }
    }
}

/// Whose the archive under an image id is. There is one name for all workspaces: the first that
/// publishes has it, others may publish the very same content only.
struct Ownership {
    own: bool,
    overwrite: Overwrite,
}

impl Ownership {
    /// Nothing is told of what another workspace has.
    fn judge<T>(&self, published: Result<T, PullError>) -> Result<T, PullError> {
        published.map_err(|error| {
            let conflict = !self.own && error.code() == "store_conflict";
            if conflict { PullError::Taken } else { error }
        })
    }
}

/// What to make when a v2 archive failed for a reason that v1 doesn't have.
fn instead<T>(policy: Policy, error: ArchiveError) -> Result<Result<T, Decision>, PullError> {
    match findings::of_error(&error) {
        Some(finding) => Ok(Err(policy.decide(&[finding]))),
        None => Err(error.into()),
    }
}
