//! pip's descriptions of packages: header fields as those of mail, and then a text (Python packaging
//! specifications, "Core metadata" and "Recording installed projects").

use super::{Manager, Package};

/// The header fields have no more bytes.
pub(super) const HEADERS: u64 = 64 << 10;

/// Whether a package is described there: `METADATA` of a `.dist-info`, `PKG-INFO` of an `.egg-info`, or a file
/// of that name itself, below `site-packages` or `dist-packages`.
pub(super) fn is_description(path: &[u8]) -> bool {
    let mut parts = path.rsplit(|byte| *byte == b'/');
    let (name, directory) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let is_place = |part: &[u8]| matches!(part, b"site-packages" | b"dist-packages");
    match name {
        b"METADATA" => directory.ends_with(b".dist-info") && parts.next().is_some_and(is_place),
        b"PKG-INFO" => directory.ends_with(b".egg-info") && parts.next().is_some_and(is_place),
        _ => name.ends_with(b".egg-info") && is_place(directory),
    }
}

/// The package that it describes; the end may be missing.
pub(super) fn description(bytes: &[u8]) -> Option<Package> {
    let text = String::from_utf8_lossy(bytes);
    let field = |wanted: &str| {
        let headers = text.lines().take_while(|line| !line.trim().is_empty());
        let mut found = headers.filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case(wanted).then_some(value.trim())
        });
        found.next()
    };
    let package = Package::new(Manager::Pip, field("Name")?, field("Version")?)?;
    let license = field("License-Expression").or_else(|| field("License"));
    Some(package.with_license(license.filter(|license| *license != "UNKNOWN")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headers_name_the_package() {
        let text =
            "Metadata-Version: 2.1\nName: PyYAML\nVersion: 6.0\nLicense: MIT\n\nName: other\n";
        let found = description(text.as_bytes()).unwrap();
        assert_eq!((found.name.as_str(), found.version.as_str()), ("PyYAML", "6.0"));
        assert_eq!(found.license.as_deref(), Some("MIT"));
        let expression = text.replace("License:", "License: UNKNOWN\nLicense-Expression:");
        assert_eq!(description(expression.as_bytes()).unwrap().license.as_deref(), Some("MIT"));
        assert_eq!(description(b"Name: x\n\nVersion: 1\n"), None, "that is no header");
    }
}
