//! Which ids secrets may have. Those that are offered as `ARG`s come to the builder by its environment, where
//! some names mean something to it or to its loader.

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

/// Bytes of an id at most.
const MAX_ID: usize = 128;

/// [`is_id`] as a regular expression (ECMA 262), for documents.
pub const ID_PATTERN: &str = "^[A-Za-z0-9_.-]{1,128}$";

/// Whether secrets may have this id, and stages: it stands among options that are separated by commas.
pub fn is_id(id: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    (1..=MAX_ID).contains(&id.len()) && id.bytes().all(plain)
}

/// Why a secret can't have this id, which may be offered as an `ARG` too; `None` if it can.
pub fn secret_id_fault(id: &str, as_argument: bool) -> Option<&'static str> {
    if !is_id(id) {
        return Some("is no id of a secret: expected letters, digits, '_', '-' and '.'");
    }
    if as_argument { no_argument(id) } else { None }
}

/// The ids of secrets that may be offered as `ARG`s, as a regular expression (ECMA 262), for documents: what
/// [`secret_id_fault`] has nothing against.
pub fn argument_id_pattern() -> String {
    let any_case = |name: &&str| -> String {
        let either = |letter: char| match letter.to_ascii_lowercase() {
            lower if lower == letter => letter.to_string(),
            lower => format!("[{letter}{lower}]"),
        };
        name.chars().map(either).collect()
    };
    let prefixes = PREFIXES.iter().map(any_case);
    let names = NAMES.iter().map(any_case).map(|name| format!("{name}$"));
    let proxy = format!(".*{}$", any_case(&"_PROXY"));
    let reserved: Vec<String> = prefixes.chain(names).chain([proxy]).collect();
    format!("^(?!{})[A-Za-z][A-Za-z0-9_]{{0,{}}}$", reserved.join("|"), MAX_ID - 1)
}

/// Why a secret of this id can't be offered as an `ARG`; `None` if it can.
fn no_argument(id: &str) -> Option<&'static str> {
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
            assert!(secret_id_fault(bad, true).is_some(), "{bad}");
        }
        for good in ["TOKEN", "NPM_TOKEN", "pip_index", "A1"] {
            assert!(secret_id_fault(good, true).is_none(), "{good}");
        }
    }

    #[test]
    fn an_id_is_no_list_of_options() {
        for bad in ["", "a,src=/etc/shadow", "a=b", "a b", "a/b", "\u{e9}", "a\0", &"x".repeat(129)]
        {
            assert!(secret_id_fault(bad, false).is_some(), "{bad}");
        }
        for good in ["PATH", "npm-token", "a.b", &"x".repeat(128)] {
            assert!(secret_id_fault(good, false).is_none(), "{good}");
        }
    }
}
