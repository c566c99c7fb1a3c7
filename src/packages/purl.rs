//! Packages by their addresses (package-url specification, and its types `apk`, `deb`, `npm` and `pypi`).

use std::fmt::Write as _;

use super::{Manager, Package};

/// Where a package is to be had. `system` is the image's, which packages of apk and dpkg belong to.
pub fn package_url(package: &Package, system: Option<&str>) -> String {
    let Package { manager, name, version, architecture, .. } = package;
    let (name, version) = (encoded(name), encoded(version));
    let arch = architecture.as_deref().map(encoded);
    let arch = arch.map(|arch| format!("?arch={arch}")).unwrap_or_default();
    match manager {
        Manager::Apk => format!("pkg:apk/{}/{name}@{version}{arch}", system.unwrap_or("alpine")),
        Manager::Dpkg => format!("pkg:deb/{}/{name}@{version}{arch}", system.unwrap_or("debian")),
        // A scope is a namespace.
        Manager::Npm => format!("pkg:npm/{}@{version}", name.replacen("%2F", "/", 1)),
        Manager::Pip => {
            format!("pkg:pypi/{}@{version}", name.to_ascii_lowercase().replace('_', "-"))
        }
    }
}

/// With everything but letters, digits and `.-_~` as percent signs and hex digits.
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b".-_~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_manager_has_its_form() {
        for (manager, name, version, url) in [
            (
                Manager::Dpkg,
                "libstdc++6",
                "1:2+b1",
                "pkg:deb/debian/libstdc%2B%2B6@1%3A2%2Bb1?arch=amd64",
            ),
            (Manager::Apk, "musl", "1.2-r0", "pkg:apk/debian/musl@1.2-r0?arch=amd64"),
            (Manager::Npm, "@s/a", "1.0", "pkg:npm/%40s/a@1.0"),
            (Manager::Pip, "Typing_Extensions", "4", "pkg:pypi/typing-extensions@4"),
        ] {
            let package = Package::new(manager, name, version).unwrap();
            let package = package.with_architecture(Some("amd64"));
            assert_eq!(package_url(&package, Some("debian")), url);
        }
    }
}
