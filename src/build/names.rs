//! Which names secrets may have that are offered as `ARG`s: their values come to the builder by its
//! environment, where some names mean something to it or to its loader.

/// Names that begin with one of these change what programs do, rather than what a Dockerfile says.
const PREFIXES: [&str; 12] = [
    "BUILDAH_",
    "CONTAINERS_",
    "DOCKER_",
    "GLIBC_",
    "GO",
    "LC_",
    "LD_",
    "LISTEN_",
    "MALLOC_",
    "SSL_",
    "STORAGE_",
    "XDG_",
];
/// As do these.
const NAMES: [&str; 17] = [
    "GCONV_PATH",
    "HOME",
    "HOSTALIASES",
    "LANG",
    "LOCALDOMAIN",
    "LOCPATH",
    "NLSPATH",
    "NOTIFY_SOCKET",
    "PATH",
    "REGISTRY_AUTH_FILE",
    "RES_OPTIONS",
    "SHELL",
    "TERM",
    "TMPDIR",
    "TZ",
    "TZDIR",
    "USER",
];

/// Why a secret of this id can't be offered as an `ARG`; `None` if it can.
pub fn no_argument(id: &str) -> Option<&'static str> {
    let first = id.bytes().next();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if !first.is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        || !id.bytes().all(plain)
    {
        return Some("is no name of an ARG");
    }
    let upper = id.to_ascii_uppercase();
    let reserved = upper.starts_with('_')
        || upper.ends_with("_PROXY")
        || NAMES.contains(&upper.as_str())
        || PREFIXES.iter().any(|prefix| upper.starts_with(prefix));
    reserved.then_some(
        "is a name that means something to the builder itself: expected another for an ARG",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_builder_are_refused() {
        for bad in [
            "LD_PRELOAD",
            "ld_library_path",
            "GODEBUG",
            "PATH",
            "HTTPS_PROXY",
            "_X",
            "A-B",
            "",
            "1A",
        ] {
            assert!(no_argument(bad).is_some(), "{bad}");
        }
        for good in ["TOKEN", "NPM_TOKEN", "pip_index", "A1"] {
            assert!(no_argument(good).is_none(), "{good}");
        }
    }
}
