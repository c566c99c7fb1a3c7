//! dpkg's database: paragraphs of fields, as in Debian's control files (Debian policy, "Control files and
//! their fields").

use super::{MAX_PACKAGES, Manager, Package};

/// The packages that are installed: those that are known but removed are not.
pub(super) fn status(bytes: &[u8]) -> Vec<Package> {
    let text = String::from_utf8_lossy(bytes);
    let mut packages = Vec::new();
    let mut fields = [None; 4];
    for line in text.lines().chain([""]) {
        if line.trim().is_empty() {
            let [name, version, architecture, status] = std::mem::take(&mut fields);
            // Without the word, in images without dpkg, there is nothing that isn't.
            let is_installed = status.is_none_or(|status: &str| status.ends_with(" installed"));
            let named = name.zip(version).filter(|_| is_installed);
            let package =
                named.and_then(|(name, version)| Package::new(Manager::Dpkg, name, version));
            packages.extend(package.map(|package| package.with_architecture(architecture)));
            if packages.len() >= MAX_PACKAGES {
                break;
            }
            continue;
        }
        // What begins with a space goes on with the field before.
        let Some((name, value)) = line.split_once(':') else { continue };
        let known = ["Package", "Version", "Architecture", "Status"];
        if let Some(at) = known.iter().position(|known| known.eq_ignore_ascii_case(name)) {
            fields[at] = Some(value.trim());
        }
    }
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_removed_is_not_there() {
        let text = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9\n\
                    Description: x\n Package: no field\n .\n\n\
                    Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n\n\
                    Package: bare\nVersion: 2:1.0+b1~x\n";
        let found = status(text.as_bytes());
        let names: Vec<_> = found.iter().map(|p| (p.name.as_str(), p.version.as_str())).collect();
        assert_eq!(names, [("libc6", "2.36-9"), ("bare", "2:1.0+b1~x")]);
        assert_eq!(found[0].architecture.as_deref(), Some("amd64"));
    }
}
