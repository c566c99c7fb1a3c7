//! apk's database: lines of a letter, a colon and a value; an empty line ends a package (Alpine's wiki,
//! "Apk spec", "Installed Database").

use super::{MAX_PACKAGES, Manager, Package};

/// The packages that are installed.
pub(super) fn installed(bytes: &[u8]) -> Vec<Package> {
    let text = String::from_utf8_lossy(bytes);
    let mut packages = Vec::new();
    let mut fields = [None; 4];
    // An empty line more ends the last one.
    for line in text.lines().chain([""]) {
        if line.trim().is_empty() {
            let [name, version, architecture, license] = std::mem::take(&mut fields);
            let named = name.zip(version);
            let package =
                named.and_then(|(name, version)| Package::new(Manager::Apk, name, version));
            packages.extend(
                package
                    .map(|package| package.with_architecture(architecture).with_license(license)),
            );
            if packages.len() >= MAX_PACKAGES {
                break;
            }
            continue;
        }
        let Some((letter, value)) = line.split_once(':') else { continue };
        if let Some(at) = ["P", "V", "A", "L"].iter().position(|known| *known == letter) {
            fields[at] = Some(value);
        }
    }
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_told_apart_by_empty_lines() {
        let text = "C:Q1x=\nP:musl\nV:1.2.5-r0\nA:x86_64\nL:MIT\nF:lib\n\nP:broken\n\nP:a\nV:1";
        let found: Vec<_> = installed(text.as_bytes())
            .into_iter()
            .map(|p| (p.name, p.version, p.architecture, p.license))
            .collect();
        let some = |text: &str| Some(text.to_owned());
        let expected = [
            ("musl".to_owned(), "1.2.5-r0".to_owned(), some("x86_64"), some("MIT")),
            ("a".to_owned(), "1".to_owned(), None, None),
        ];
        assert_eq!(found, expected);
    }
}
