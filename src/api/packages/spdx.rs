//! Packages as an SPDX document (SPDX 2.3, JSON). Nothing is concluded from what packages say of themselves:
//! their licenses stand there in their own words.

#![expect(clippy::struct_field_names, reason = "SPDX gives the names")]

use std::collections::BTreeSet;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use crate::packages::{MAX_PACKAGES, Package, package_url};

const DOCUMENT: &str = "SPDXRef-DOCUMENT";
const IMAGE: &str = "SPDXRef-image";
const NOTHING_SAID: &str = "NOASSERTION";

/// What a document is about.
#[derive(Debug, Clone)]
pub(in crate::api) struct Described<'a> {
    /// The image by its name and digest.
    pub(super) image: &'a str,
    /// An address that no other document has.
    pub(super) namespace: String,
    /// What the image calls its system.
    pub(super) system: Option<&'a str>,
    /// When the image was made.
    pub(super) created: DateTime<Utc>,
}

/// An SPDX document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = SpdxDocument)]
pub(in crate::api) struct Document {
    /// `SPDX-2.3`.
    spdx_version: &'static str,
    /// `CC0-1.0`.
    data_license: &'static str,
    /// `SPDXRef-DOCUMENT`.
    #[serde(rename = "SPDXID")]
    id: &'static str,
    /// The image.
    name: String,
    /// An address that no other document has.
    document_namespace: String,
    /// Who made the document, and when.
    creation_info: CreationInfo,
    /// The image, and what is installed in it.
    packages: Vec<SpdxPackage>,
    /// Which is in what.
    relationships: Vec<Relationship>,
    /// `SPDXRef-image`.
    document_describes: [&'static str; 1],
}

/// Who made a document, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = SpdxCreation)]
pub(in crate::api) struct CreationInfo {
    /// In UTC and whole seconds.
    created: String,
    /// The service.
    creators: [String; 1],
    /// What was left out, if anything was.
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<String>,
}

/// A package of a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::api) struct SpdxPackage {
    /// Names it in the document.
    #[serde(rename = "SPDXID")]
    id: String,
    /// Its name.
    name: String,
    /// Its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    version_info: Option<String>,
    /// `NOASSERTION`.
    download_location: &'static str,
    /// `false`.
    files_analyzed: bool,
    /// `NOASSERTION`.
    license_concluded: &'static str,
    /// `NOASSERTION`.
    license_declared: &'static str,
    /// The license in the package's own words.
    #[serde(skip_serializing_if = "Option::is_none")]
    license_comments: Option<String>,
    /// `NOASSERTION`.
    copyright_text: &'static str,
    /// Which package manager has written it down.
    #[serde(skip_serializing_if = "Option::is_none")]
    source_info: Option<String>,
    /// Its package URL.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    external_refs: Vec<ExternalRef>,
}

/// A package by its address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = SpdxReference)]
pub(in crate::api) struct ExternalRef {
    /// `PACKAGE-MANAGER`.
    reference_category: &'static str,
    /// `purl`.
    reference_type: &'static str,
    /// The package URL.
    reference_locator: String,
}

/// What two parts of a document have to do with each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = SpdxRelationship)]
pub(in crate::api) struct Relationship {
    /// The one.
    spdx_element_id: &'static str,
    /// `DESCRIBES` or `CONTAINS`.
    relationship_type: &'static str,
    /// The other.
    related_spdx_element: String,
}

impl Document {
    /// Lists packages, each once and in their order. `skipped` records could not be read.
    pub(super) fn of(described: &Described<'_>, packages: Vec<Package>, skipped: usize) -> Self {
        let all: BTreeSet<Package> = packages.into_iter().collect();
        let mut left_out = Vec::new();
        if all.len() > MAX_PACKAGES {
            left_out.push(format!("{} packages beyond {MAX_PACKAGES}", all.len() - MAX_PACKAGES));
        }
        if skipped > 0 {
            left_out.push(format!(
                "{skipped} files of package managers that are too many or too large"
            ));
        }
        let comment = (!left_out.is_empty()).then(|| format!("left out: {}", left_out.join(", ")));
        let image = SpdxPackage::new(IMAGE.to_owned(), described.image.to_owned());
        let listed = all.into_iter().take(MAX_PACKAGES).enumerate();
        let listed = listed.map(|(at, package)| SpdxPackage::of(at + 1, package, described.system));
        let packages: Vec<SpdxPackage> = std::iter::once(image).chain(listed).collect();
        let describes = Relationship {
            spdx_element_id: DOCUMENT,
            relationship_type: "DESCRIBES",
            related_spdx_element: IMAGE.to_owned(),
        };
        let contains = packages[1..].iter().map(|package| Relationship {
            spdx_element_id: IMAGE,
            relationship_type: "CONTAINS",
            related_spdx_element: package.id.clone(),
        });
        Self {
            spdx_version: "SPDX-2.3",
            data_license: "CC0-1.0",
            id: DOCUMENT,
            name: described.image.to_owned(),
            document_namespace: described.namespace.clone(),
            creation_info: CreationInfo {
                created: described.created.to_rfc3339_opts(SecondsFormat::Secs, true),
                creators: [format!("Tool: clipwright-{}", env!("CARGO_PKG_VERSION"))],
                comment,
            },
            relationships: std::iter::once(describes).chain(contains).collect(),
            packages,
            document_describes: [IMAGE],
        }
    }
}

impl SpdxPackage {
    fn new(id: String, name: String) -> Self {
        Self {
            id,
            name,
            version_info: None,
            download_location: NOTHING_SAID,
            files_analyzed: false,
            license_concluded: NOTHING_SAID,
            license_declared: NOTHING_SAID,
            license_comments: None,
            copyright_text: NOTHING_SAID,
            source_info: None,
            external_refs: Vec::new(),
        }
    }

    fn of(number: usize, package: Package, system: Option<&str>) -> Self {
        let reference_locator = package_url(&package, system);
        let Package { manager, name, version, license, .. } = package;
        Self {
            version_info: Some(version),
            license_comments: license.map(|license| format!("the package says: {license}")),
            source_info: Some(format!("installed by {manager}")),
            external_refs: vec![ExternalRef {
                reference_category: "PACKAGE-MANAGER",
                reference_type: "purl",
                reference_locator,
            }],
            ..Self::new(format!("SPDXRef-package-{number}"), name)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::packages::Manager;

    #[test]
    fn each_package_is_listed_once_and_in_the_image() {
        let package = |name: &str| Package::new(Manager::Pip, name, "1").unwrap();
        let described = Described {
            image: "host/app@sha256:00",
            namespace: "urn:x".to_owned(),
            system: Some("debian"),
            created: DateTime::from_timestamp(1, 5).unwrap(),
        };
        let packages = vec![package("b"), package("a").with_license(Some("MIT")), package("b")];
        let document = Document::of(&described, packages.clone(), 0);
        let said: Value = serde_json::to_value(&document).unwrap();
        assert_eq!(said["creationInfo"]["created"], "1970-01-01T00:00:01Z");
        let names: Vec<_> = said["packages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| p["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["host/app@sha256:00", "a", "b"]);
        let expected = json!({
            "SPDXID": "SPDXRef-package-1", "name": "a", "versionInfo": "1", "filesAnalyzed": false,
            "downloadLocation": "NOASSERTION", "licenseConcluded": "NOASSERTION",
            "licenseDeclared": "NOASSERTION", "copyrightText": "NOASSERTION",
            "licenseComments": "the package says: MIT", "sourceInfo": "installed by pip",
            "externalRefs": [{
                "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl",
                "referenceLocator": "pkg:pypi/a@1",
            }],
        });
        assert_eq!(said["packages"][1], expected);
        assert_eq!(said["relationships"].as_array().unwrap().len(), 3);
        assert!(said["creationInfo"].get("comment").is_none());
        let cut = serde_json::to_value(Document::of(&described, packages, 2)).unwrap();
        assert!(cut["creationInfo"]["comment"].as_str().unwrap().contains("2 files"));
    }
}
