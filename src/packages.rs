//! What is installed in an image, as its package managers have written it down: dpkg, apk, pip and npm. It
//! knows neither archives nor registries; whoever asks brings the bytes of their files.

use std::fmt;

/// apk's database.
mod apk;
/// dpkg's database.
mod dpkg;
/// npm's descriptions of packages.
mod npm;
/// pip's descriptions of packages.
mod pip;
/// Packages by their addresses.
mod purl;

pub use purl::package_url;

/// Packages that are listed of an image at most.
pub const MAX_PACKAGES: usize = 50_000;
/// Characters of a name or a version at most; longer ones are none.
const MAX_WORD: usize = 300;
/// Characters of a license at most; the rest is cut.
const MAX_LICENSE: usize = 500;

/// Who has written a package down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Manager {
    /// Of Alpine.
    Apk,
    /// Of Debian.
    Dpkg,
    /// Of Node.
    Npm,
    /// Of Python.
    Pip,
}

impl fmt::Display for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Apk => "apk",
            Self::Dpkg => "dpkg",
            Self::Npm => "npm",
            Self::Pip => "pip",
        })
    }
}

/// A file in which a package manager has written something down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Who has.
    pub manager: Manager,
    /// As many of its bytes as are looked at; what is longer is left out as a whole, unless its beginning says
    /// everything.
    pub most: u64,
    /// Whether its beginning says everything.
    pub is_prefix_enough: bool,
}

impl Record {
    /// By a path from the root, without a slash before it: whether there is such a file.
    pub fn at(path: &[u8]) -> Option<Self> {
        let is_whole =
            |manager, mib: u64| Self { manager, most: mib << 20, is_prefix_enough: false };
        match path {
            b"var/lib/dpkg/status" => return Some(is_whole(Manager::Dpkg, 64)),
            b"lib/apk/db/installed" | b"usr/lib/apk/db/installed" => {
                return Some(is_whole(Manager::Apk, 64));
            }
            _ => {}
        }
        if let Some(name) = path.strip_prefix(b"var/lib/dpkg/status.d/") {
            // As images without a package manager have it; checksums lie beside it.
            let own = !name.contains(&b'/') && !name.ends_with(b".md5sums");
            return own.then(|| is_whole(Manager::Dpkg, 1));
        }
        if pip::is_description(path) {
            // A long text follows.
            let most = pip::HEADERS;
            return Some(Self { manager: Manager::Pip, most, is_prefix_enough: true });
        }
        npm::is_description(path).then(|| is_whole(Manager::Npm, 1))
    }

    /// The packages that its bytes tell of. What can't be understood tells of none.
    pub fn packages(self, bytes: &[u8]) -> Vec<Package> {
        match self.manager {
            Manager::Apk => apk::installed(bytes),
            Manager::Dpkg => dpkg::status(bytes),
            Manager::Npm => npm::description(bytes).into_iter().collect(),
            Manager::Pip => pip::description(bytes).into_iter().collect(),
        }
    }
}

/// A package that is installed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// Who says so.
    pub manager: Manager,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it is made for.
    pub architecture: Option<String>,
    /// Its license in its own words.
    pub license: Option<String>,
}

impl Package {
    /// `None` if it has no name or version that can be one.
    pub(crate) fn new(manager: Manager, name: &str, version: &str) -> Option<Self> {
        let [name, version] = [name, version].map(str::trim);
        let is_word = |text: &str| {
            let plain = !text.chars().any(|c| c.is_control() || c.is_whitespace());
            !text.is_empty() && text.len() <= MAX_WORD && plain
        };
        let (name, version) =
            (is_word(name) && is_word(version)).then(|| (name.to_owned(), version.to_owned()))?;
        Some(Self { manager, name, version, architecture: None, license: None })
    }

    pub(crate) fn with_license(mut self, license: Option<&str>) -> Self {
        let license = license.map(str::trim).filter(|text| !text.is_empty());
        let plain =
            |text: &str| text.chars().filter(|c| !c.is_control()).take(MAX_LICENSE).collect();
        self.license = license.map(plain);
        self
    }

    fn with_architecture(mut self, architecture: Option<&str>) -> Self {
        let short = architecture.map(str::trim).filter(|text| (1..=32).contains(&text.len()));
        self.architecture = short.map(str::to_owned);
        self
    }
}

/// What an image calls its system, out of the text of its `os-release` (freedesktop.org, "os-release").
pub fn system_of(os_release: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(os_release);
    let id = text.lines().find_map(|line| line.strip_prefix("ID="))?;
    let id = id.trim().trim_matches(['"', '\'']);
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    (!id.is_empty() && id.len() <= 64 && id.chars().all(plain)).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn records_are_known_by_their_paths() {
        let site = "usr/lib/python3/site-packages";
        for (path, manager) in [
            ("var/lib/dpkg/status", Some(Manager::Dpkg)),
            ("var/lib/dpkg/status.d/libc6", Some(Manager::Dpkg)),
            ("var/lib/dpkg/status.d/libc6.md5sums", None),
            ("var/lib/dpkg/status-old", None),
            ("lib/apk/db/installed", Some(Manager::Apk)),
            ("root/lib/apk/db/installed", None),
            (&format!("{site}/a-1.dist-info/METADATA"), Some(Manager::Pip)),
            (&format!("{site}/a.egg-info/PKG-INFO"), Some(Manager::Pip)),
            ("usr/lib/python3/dist-packages/a-1.egg-info", Some(Manager::Pip)),
            (&format!("{site}/a/METADATA"), None),
            ("app/node_modules/a/package.json", Some(Manager::Npm)),
            ("app/node_modules/@s/a/package.json", Some(Manager::Npm)),
            ("app/node_modules/a/lib/package.json", None),
            ("app/node_modules/s/a/package.json", None),
            ("app/package.json", None),
        ] {
            let found = Record::at(path.as_bytes()).map(|record| record.manager);
            assert_eq!(found, manager, "{path}");
        }
    }

    #[test]
    fn names_are_words() {
        let of = |name, version| Package::new(Manager::Pip, name, version);
        assert!(of("a", " 1 ").is_some_and(|package| package.version == "1"));
        let long = "x".repeat(MAX_WORD + 1);
        for (name, version) in [("", "1"), ("a", ""), ("a b", "1"), ("a\n", "1\u{7}"), (&long, "1")]
        {
            assert_eq!(of(name, version), None, "{name:?} {version:?}");
        }
    }

    #[test]
    fn the_system_has_a_name() {
        for (text, system) in [
            ("NAME=x\nID=debian\n", Some("debian")),
            ("ID=\"ol\"\nID_LIKE=fedora\n", Some("ol")),
            ("ID=a b\n", None),
            ("", None),
        ] {
            assert_eq!(system_of(text.as_bytes()).as_deref(), system, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn anything_is_read(bytes in prop::collection::vec(any::<u8>(), 0..2000), which in 0..4usize) {
            let managers = [Manager::Apk, Manager::Dpkg, Manager::Npm, Manager::Pip];
            let record = Record { manager: managers[which], most: 0, is_prefix_enough: true };
            for package in record.packages(&bytes) {
                prop_assert!(!package.name.is_empty() && package.version.len() <= MAX_WORD);
            }
        }
    }
}
