//! `/v1/jobs/{id}/packages`: what is installed in the image that a job has made an archive of.

use axum::Json;
use axum::extract::State;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::AppState;
use super::auth::{May, scope};
use super::extract::PathParam;
use super::images::opened;
use super::jobs::visible;
use super::problem::{ApiError, CommonProblems, Problem};
use crate::clip::node::{Node, NodeKind};
use crate::content::Beginning;
use crate::jobs::job::{JobResult, JobState};
use crate::jobs::recorded::Recorded;
use crate::packages::{MAX_PACKAGES, Package, Record, system_of};
use crate::publish::files::OpenArchive;

/// Packages as an SPDX document.
mod spdx;

use spdx::{Described, Document};

/// Files of package managers that are read at most...
const MAX_RECORDS: usize = 20_000;
/// ...and the bytes of them, in all.
const MAX_BYTES: u64 = 256 << 20;
/// An `os-release` has no more bytes.
const OS_RELEASE: u64 = 64 << 10;

/// Lists what is installed in a job's image
///
/// An SPDX document of the packages that dpkg, apk, pip and npm have written down in the image. Nothing but their
/// files is read, through the archive; what there are too many of, or what is too large, is left out, which
/// the document's comment says. An image without any has a document without any.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}/packages",
    operation_id = "get_job_packages",
    tag = "jobs",
    params(("id" = Uuid, Path, description = "The job's id")),
    responses(
        CommonProblems,
        (status = 200, description = "The packages", body = Document,
            example = json!({
                "spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT",
                "name": "registry.example/beta9-users@sha256:4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945",
                "documentNamespace": "urn:clipwright:packages:sha256:a1fce4363854ff888cff4b8e7875d600c2682390412a8cf79b37d0b11148b0fa",
                "creationInfo": {"created": "2026-11-28T02:00:00Z", "creators": ["Tool: clipwright-0.1.0"]},
                "packages": [
                    {
                        "SPDXID": "SPDXRef-image",
                        "name": "registry.example/beta9-users@sha256:4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945",
                        "downloadLocation": "NOASSERTION", "filesAnalyzed": false, "licenseConcluded": "NOASSERTION",
                        "licenseDeclared": "NOASSERTION", "copyrightText": "NOASSERTION",
                    },
                    {
                        "SPDXID": "SPDXRef-package-1", "name": "libc6", "versionInfo": "2.36-9",
                        "downloadLocation": "NOASSERTION", "filesAnalyzed": false, "licenseConcluded": "NOASSERTION",
                        "licenseDeclared": "NOASSERTION", "copyrightText": "NOASSERTION", "sourceInfo": "installed by dpkg",
                        "externalRefs": [{
                            "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl",
                            "referenceLocator": "pkg:deb/debian/libc6@2.36-9?arch=amd64",
                        }],
                    },
                ],
                "relationships": [
                    {"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": "SPDXRef-image"},
                    {"spdxElementId": "SPDXRef-image", "relationshipType": "CONTAINS", "relatedSpdxElement": "SPDXRef-package-1"},
                ],
                "documentDescribes": ["SPDXRef-image"],
            })),
        (status = 404, description = "No such job, or its archive is not there", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Files of the image can't be read", body = Problem, content_type = "application/problem+json"),
    ),
    security((), ("token" = []))
)]
pub(super) async fn show(
    State(state): State<AppState>,
    may: May<scope::ImagesRead>,
    PathParam(id): PathParam<Uuid>,
) -> Result<Json<Document>, ApiError> {
    let job = visible(&state, &may.access, id).await?;
    let none = |reason: &str| ApiError::not_found("no_packages", format!("job {id} {reason}"));
    let result = job.result.as_ref().and_then(Recorded::known);
    let (Some(result), Some(created)) = (result, job.finished_at) else {
        return Err(none("has made no archive, or not yet"));
    };
    if job.state != JobState::Succeeded {
        return Err(none("has made no archive"));
    }
    let open = opened(&state, &may.access, &result.image_id).await?;
    if open.digest() != result.archive.digest {
        return Err(none("has made an archive that another has taken the place of"));
    }
    let _place = state.streams.open(&may.access)?;
    let Found { packages, system, left_out } = find(&state, &open).await?;
    let JobResult { summary, archive, .. } = result;
    let described = Described {
        image: &summary.reference,
        namespace: format!("urn:clipwright:packages:{}", archive.digest),
        system: system.as_deref(),
        created,
    };
    Ok(Json(Document::of(&described, packages, left_out)))
}

/// What an archive's files tell.
#[derive(Default)]
struct Found {
    packages: Vec<Package>,
    system: Option<String>,
    left_out: usize,
}

/// Reads the files in which package managers have written something down, and what the image's system is called.
async fn find(state: &AppState, open: &OpenArchive) -> Result<Found, ApiError> {
    let tree = &open.archive().tree;
    let release =
        tree.resolve(b"/etc/os-release").or_else(|_| tree.resolve(b"/rootfs/etc/os-release"));
    let release = release.ok();
    // The file of the system comes first.
    let release = release.filter(|node| matches!(node.kind, NodeKind::File(_)));
    let mut wanted: Vec<Beginning<'_>> =
        release.map(|node| Beginning { node, most: OS_RELEASE }).into_iter().collect();
    let mut records = vec![None; wanted.len()];
    let (mut left_out, mut bytes) = (0, 0);
    for (node, record) in tree.iter().filter_map(record_of) {
        let length = node.content_length();
        let is_whole = record.is_prefix_enough || length <= record.most;
        let fits = records.len() < MAX_RECORDS && bytes + length.min(record.most) <= MAX_BYTES;
        if is_whole && fits {
            bytes += length.min(record.most);
            wanted.push(Beginning { node, most: record.most });
            records.push(Some(record));
        } else {
            left_out += 1;
        }
    }
    let mut found = Found { left_out, ..Found::default() };
    let mut take = |number: usize, bytes: bytes::Bytes| match records.get(number) {
        Some(Some(_)) if found.packages.len() > MAX_PACKAGES => found.left_out += 1,
        Some(Some(record)) => found.packages.extend(record.packages(&bytes)),
        _ => found.system = system_of(&bytes),
    };
    let cancel = CancellationToken::new();
    let reading = state.reader.beginnings(open, &wanted, &cancel, &mut take);
    let unreadable = reading.await.map_err(|error| ApiError::from_lower(&error))?;
    found.left_out += unreadable;
    Ok(found)
}

/// A regular file in which a package manager has written something down.
fn record_of(node: &Node) -> Option<(&Node, Record)> {
    let path = node.path.as_bytes();
    // Archives of v1 have the image below it.
    let path = path.strip_prefix(b"/rootfs").filter(|path| path.starts_with(b"/")).unwrap_or(path);
    let record = Record::at(path.strip_prefix(b"/")?)?;
    matches!(node.kind, NodeKind::File(_)).then_some((node, record))
}
