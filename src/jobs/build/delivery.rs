//! The way of a built image out of the builder's storage: into the build registry, or, if it is not to be
//! pushed, into a directory.

use std::sync::Arc;
use std::time::Instant;

use super::attestation::Attestations;
use super::log::JobLog;
use super::provenance::{Statement, subject};
use super::{BuildJobError, Builder};
use crate::archive::IndexOptions;
use crate::build::export::LAYOUT_TAG;
use crate::build::{BuildError, Destination, Finished, Site};
use crate::digest::Digest;
use crate::jobs::job::{BuildReport, BuildSpec, EventKind, JobKind};
use crate::jobs::phase::phase;
use crate::jobs::worker::{Attempt, EventSink};
use crate::local::blocking;
use crate::memory::MemoryAccount;
use crate::oci::{ImageSource, OciError, OciSettings, Reference, ResolvedImage, Source};
use crate::progress::{Progress, Step};
use crate::telemetry::metrics::layer_done;

/// Where the images of one job go.
pub(super) struct Delivery<'a> {
    pub(super) builder: &'a Builder,
    pub(super) spec: &'a BuildSpec,
    pub(super) target: &'a Reference,
    pub(super) attempt: &'a Attempt,
    /// How registries are reached where the service itself is whom they let in.
    pub(super) oci: &'a OciSettings,
    pub(super) options: &'a IndexOptions,
}

/// An image, and where it is now.
pub(super) type Delivered = (Source, ResolvedImage);

impl Delivery<'_> {
    fn destination(&self) -> Result<Destination<'_>, BuildJobError> {
        Ok(Destination {
            reference: self.target,
            oci: self.oci,
            credentials: self.builder.push_credentials(self.attempt)?,
            options: self.options,
            progress: Arc::new(GettingOn(self.attempt.events.clone())),
        })
    }

    /// Pushes the image, puts beside it how it came to be, pins it in the job, and puts the tag to it, in this
    /// order: an attempt that follows after any of them goes on from there, and nobody finds by the tag what
    /// is not there as a whole. What it came to goes into the report.
    pub(super) async fn push(
        &self,
        built: &Finished,
        site: &Site,
        report: &mut BuildReport,
        log: &JobLog,
    ) -> Result<Delivered, BuildJobError> {
        let (destination, cancel) = (self.destination()?, &self.attempt.cancel);
        let exporting = Instant::now();
        log.say("Exporting image layers once for publication and indexing...").await;
        let pushing = destination.push(built, site, cancel);
        let pushed =
            phase(&self.attempt.events, JobKind::Build, "export", pushing).await?.manifest_digest;
        report.timings.export = exporting.elapsed().as_secs_f64();
        log.say(&format!("Image layers exported in {:.1}s", report.timings.export)).await;
        let publishing = Instant::now();
        log.say("Publishing image...").await;
        report.reference = Some(self.target.clone().at(pushed).to_string());
        let finding = destination.find(pushed, &self.spec.platform, cancel);
        let (found, ()) = tokio::join!(finding, self.attest(pushed, report));
        let delivered = found.map_err(BuildJobError::Push)?;
        self.attempt.fence.pin(pushed).await?;
        self.tag(&destination, &delivered.1).await?;
        report.timings.publish = publishing.elapsed().as_secs_f64();
        log.say(&format!("Image published in {:.1}s", report.timings.publish)).await;
        Ok(delivered)
    }

    /// The image that an earlier attempt has pushed, which may not have come to putting the tag to it; what is
    /// known of that attempt goes into the report. `None` if the registry has lost it.
    pub(super) async fn find(
        &self,
        pinned: Digest,
        report: &mut BuildReport,
    ) -> Result<Option<Delivered>, BuildJobError> {
        let destination = self.destination()?;
        match destination.find(pinned, &self.spec.platform, &self.attempt.cancel).await {
            Ok(delivered) => {
                self.tag(&destination, &delivered.1).await?;
                report.reference = Some(self.target.clone().at(pinned).to_string());
                let found = async { self.attestations().await?.find(pinned).await };
                match found.await {
                    Ok(Some(statement)) => statement.restore(self.attempt.job().id, report),
                    Ok(None) => {}
                    Err(error) => tracing::warn!(%error, "an image's provenance can't be read"),
                }
                Ok(Some(delivered))
            }
            Err(OciError::ImageNotFound { .. }) => Ok(None),
            Err(error) => Err(BuildJobError::Push(error)),
        }
    }

    async fn attestations(&self) -> Result<Attestations<'_>, OciError> {
        // Credentials that can't be used have failed the push before.
        let credentials = self.builder.push_credentials(self.attempt).ok().flatten();
        Attestations::open(self.target, self.oci, credentials, &self.attempt.cancel).await
    }

    /// Puts beside the image how it came to be. Registries need not take what is no image, and the service
    /// itself tells the same: that is a warning.
    async fn attest(&self, image: Digest, report: &BuildReport) {
        let job = self.attempt.job().id;
        let named = subject(&self.target.clone().at(image));
        let statement =
            named.and_then(|(name, digest)| Statement::of(job, self.spec, report, (&name, digest)));
        let Some(statement) = statement else { return };
        let attached = async { self.attestations().await?.attach(image, &statement).await };
        if let Err(error) = attached.await {
            let message = format!("the image's provenance is not in the registry: {error}");
            self.attempt.events.send(EventKind::Warning { message });
        }
    }

    async fn tag(
        &self,
        destination: &Destination<'_>,
        image: &ResolvedImage,
    ) -> Result<(), BuildJobError> {
        // Whoever has the job by now may be about to put the same tag to another image.
        self.attempt.fence.check().await?;
        let tagging = destination.tag(image, &self.attempt.cancel);
        phase(&self.attempt.events, JobKind::Build, "tag", tagging)
            .await
            .map_err(BuildJobError::Push)
    }
}

/// Writes the image into `directory`.
pub(super) async fn written(
    built: &Finished,
    directory: std::path::PathBuf,
    spec: &BuildSpec,
    attempt: &Attempt,
) -> Result<Delivered, BuildJobError> {
    let (image, epoch) = (built.image.clone(), built.style.epoch);
    let (into, cancel) = (directory.clone(), attempt.cancel.clone());
    let writing = blocking(move || image.write_layout(&into, epoch, &cancel));
    let written = phase(&attempt.events, JobKind::Build, "export", writing)
        .await
        .map_err(BuildError::from)?;
    written.map_err(BuildError::from)?;
    let layout = ImageSource::Layout {
        dir: directory,
        tag: Some(LAYOUT_TAG.to_owned()),
        published_as: None,
    };
    let found = async {
        let source = Source::open(&layout, &OciSettings::default(), None).await?;
        let image = source.resolve(&spec.platform, &attempt.cancel).await?;
        Ok((source, image))
    };
    found.await.map_err(|error: OciError| BuildError::from(error).into())
}

/// The options by which an image will be indexed. What is indexed on the way is done with when the image is
/// there.
pub(super) fn charged(options: &IndexOptions, account: &MemoryAccount) -> IndexOptions {
    IndexOptions { account: account.part(), ..options.clone() }
}

/// Bytes that go out show that the attempt gets on. How far it is, its log tells.
pub(super) struct GettingOn(pub(super) EventSink);

impl Progress for GettingOn {
    fn step(&self, step: Step) {
        self.0.waits();
        if let Step::LayerDone { cached, .. } = step {
            layer_done(cached);
        }
    }
}
