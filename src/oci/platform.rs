//! Platforms (`os/architecture[/variant]`, OCI image-spec "Image Index") and the choice among
//! those that an index offers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

const MAX_PART: usize = 64;

/// An operating system and a processor, in Go's words (`GOOS`, `GOARCH`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Platform {
    /// Such as `linux`.
    pub os: String,
    /// Such as `amd64`.
    pub architecture: String,
    /// Such as `v8`.
    pub variant: Option<String>,
}

/// Why a text is not a [`Platform`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a platform: expected os/architecture or os/architecture/variant")]
pub struct InvalidPlatform {
    /// The text, cut to 100 characters.
    pub text: String,
}

impl Platform {
    /// Linux on the processor that this program runs on.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            "loongarch64" => "loong64",
            other => other,
        };
        Self::new("linux", architecture, None)
    }

    /// A platform with the architecture in Go's words; `aarch64`, `x86_64` and their like are
    /// translated. Empty variants are none.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let (architecture, implied) = match architecture.to_ascii_lowercase().as_str() {
            "x86_64" | "x86-64" => ("amd64".to_owned(), None),
            "aarch64" => ("arm64".to_owned(), None),
            "i386" | "i486" | "i586" | "i686" | "x86" => ("386".to_owned(), None),
            "armhf" => ("arm".to_owned(), Some("v7")),
            "armel" => ("arm".to_owned(), Some("v6")),
            other => (other.to_owned(), None),
        };
        let variant = variant.filter(|variant| !variant.is_empty()).or(implied);
        Self {
            os: os.to_ascii_lowercase(),
            architecture,
            variant: variant.map(str::to_ascii_lowercase),
        }
    }

    /// The same platform as every name of it is written: without a variant that goes without saying.
    #[must_use]
    pub fn normalised(self) -> Self {
        let bare = Self { variant: None, ..self.clone() };
        if self.level().is_some() && self.level() == bare.level() { bare } else { self }
    }

    /// How well an image made for `self` runs on `wanted`: higher is better, `None` is not at
    /// all.
    ///
    /// Variants with a number are levels: a processor runs its own level and those below.
    /// Without a variant, `arm64` means `v8`, `arm` means `v7` and `amd64` means `v1`.
    pub fn fitness(&self, wanted: &Self) -> Option<u32> {
        if self.os != wanted.os || self.architecture != wanted.architecture {
            return None;
        }
        match (self.level(), wanted.level()) {
            (Some(offered), Some(limit)) => (offered <= limit).then_some(offered),
            _ => (self.variant == wanted.variant).then_some(0),
        }
    }

    fn level(&self) -> Option<u32> {
        let default = match self.architecture.as_str() {
            "arm64" => 8,
            "arm" => 7,
            "amd64" => 1,
            _ => return None,
        };
        match self.variant.as_deref() {
            None => Some(default),
            Some(variant) => variant.strip_prefix('v')?.parse().ok(),
        }
    }
}

/// The best of `offered` for `wanted`: the fittest, and of several the first.
pub(super) fn choose<'a, T>(
    wanted: &Platform,
    offered: impl IntoIterator<Item = (&'a Platform, T)>,
) -> Option<T> {
    let mut best: Option<(u32, T)> = None;
    for (platform, entry) in offered {
        if let Some(fitness) = platform.fitness(wanted)
            && best.as_ref().is_none_or(|(highest, _)| fitness > *highest)
        {
            best = Some((fitness, entry));
        }
    }
    best.map(|(_, entry)| entry)
}

impl FromStr for Platform {
    type Err = InvalidPlatform;

    fn from_str(text: &str) -> Result<Self, InvalidPlatform> {
        let is_part = |part: &&str| {
            (1..=MAX_PART).contains(&part.len())
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        };
        let parts: Vec<&str> = text.split('/').take(4).collect();
        match parts.as_slice() {
            [os, architecture] if parts.iter().all(is_part) => {
                Ok(Self::new(os, architecture, None))
            }
            [os, architecture, variant] if parts.iter().all(is_part) => {
                Ok(Self::new(os, architecture, Some(variant)))
            }
            _ => Err(InvalidPlatform { text: text.chars().take(100).collect() }),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

impl TryFrom<String> for Platform {
    type Error = InvalidPlatform;

    fn try_from(text: String) -> Result<Self, InvalidPlatform> {
        text.parse()
    }
}

impl From<Platform> for String {
    fn from(platform: Platform) -> Self {
        platform.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chosen(wanted: &str, offered: &[&str]) -> Option<String> {
        let wanted: Platform = wanted.parse().unwrap();
        let offered: Vec<Platform> = offered.iter().map(|text| text.parse().unwrap()).collect();
        choose(&wanted, offered.iter().map(|p| (p, p))).map(ToString::to_string)
    }

    #[test]
    fn parses() {
        for (text, normal) in [
            ("linux/amd64", "linux/amd64"),
            ("Linux/x86_64", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm/v7", "linux/arm/v7"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/i686", "linux/386"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), normal);
        }
        for text in ["", "linux", "linux/", "/amd64", "linux/arm/v7/x", "linux/am d64", "a/b/"] {
            assert!(text.parse::<Platform>().is_err(), "{text:?}");
        }
        assert_eq!(Platform::host().os, "linux");
    }

    #[test]
    fn chooses_by_variant() {
        let arms = ["linux/arm/v5", "linux/arm/v6", "linux/arm/v7", "linux/arm64/v8"];
        for (wanted, offered, found) in [
            ("linux/arm/v7", &arms[..], Some("linux/arm/v7")),
            ("linux/arm", &arms[..], Some("linux/arm/v7")),
            ("linux/arm/v6", &arms[..], Some("linux/arm/v6")),
            ("linux/arm/v7", &arms[..2], Some("linux/arm/v6")),
            ("linux/arm/v5", &arms[1..], None),
            ("linux/arm64", &arms[..], Some("linux/arm64/v8")),
            ("linux/arm64/v8", &["linux/arm64"], Some("linux/arm64")),
            ("linux/arm64/v9", &["linux/arm64", "linux/arm64/v9"], Some("linux/arm64/v9")),
            ("linux/amd64", &["linux/amd64/v3", "linux/amd64"], Some("linux/amd64")),
            ("linux/amd64/v3", &["linux/amd64", "linux/amd64/v2"], Some("linux/amd64/v2")),
            ("linux/amd64", &["windows/amd64", "linux/386"], None),
            ("linux/riscv64", &["linux/riscv64"], Some("linux/riscv64")),
            ("linux/mips/x", &["linux/mips"], None),
        ] {
            assert_eq!(chosen(wanted, offered).as_deref(), found, "{wanted} of {offered:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn round_trips(text in "[a-z]{1,6}/[a-z0-9]{1,6}(/v[0-9]{1,3})?") {
            let platform: Platform = text.parse().unwrap();
            prop_assert_eq!(platform.to_string().parse(), Ok(platform));
        }

        #[test]
        fn never_panics(text in any::<String>()) {
            let _ = text.parse::<Platform>();
        }
    }
}
