//! npm's descriptions of packages: `package.json` of what is in `node_modules` (npm's docs, "package.json").

use serde::Deserialize;
use serde_json::Value;

use super::{Manager, Package};

const MODULES: &[u8] = b"node_modules";

/// Whether a package lies there: `node_modules/NAME/package.json`, or `node_modules/@SCOPE/NAME/package.json`.
pub(super) fn is_description(path: &[u8]) -> bool {
    let mut parts = path.rsplit(|byte| *byte == b'/');
    if parts.next() != Some(b"package.json") || parts.next().is_none_or(<[u8]>::is_empty) {
        return false;
    }
    match parts.next() {
        Some(MODULES) => true,
        Some(scope) if scope.starts_with(b"@") => parts.next() == Some(MODULES),
        _ => false,
    }
}

#[derive(Deserialize)]
struct Description {
    name: String,
    version: String,
    /// A text; long ago, an object with its `type`.
    license: Option<Value>,
}

/// The package that it describes.
pub(super) fn description(bytes: &[u8]) -> Option<Package> {
    let Description { name, version, license } = serde_json::from_slice(bytes).ok()?;
    let license = license.as_ref();
    let license = license.and_then(|told| told.as_str().or_else(|| told.get("type")?.as_str()));
    Some(Package::new(Manager::Npm, &name, &version)?.with_license(license))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_names_its_package() {
        let of = |text: &str| description(text.as_bytes()).map(|p| (p.name, p.version, p.license));
        let (name, version) = ("@s/a".to_owned(), "1.0.0".to_owned());
        let text = r#"{"name": "@s/a", "version": "1.0.0", "license": "MIT", "main": 3}"#;
        assert_eq!(of(text), Some((name.clone(), version.clone(), Some("MIT".to_owned()))));
        let text = r#"{"name": "@s/a", "version": "1.0.0", "license": {"type": "ISC"}}"#;
        assert_eq!(of(text), Some((name, version, Some("ISC".to_owned()))));
        for text in ["", "[]", r#"{"name": "a"}"#, r#"{"name": 1, "version": "1"}"#] {
            assert_eq!(of(text), None, "{text}");
        }
    }
}
