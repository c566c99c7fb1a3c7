//! The grammar of references as a regular expression (ECMA 262), for documents: the parser itself is
//! older than its description. What it leaves out is the limit of length, and addresses in which IPv4 ends
//! IPv6.

/// The longest reference that anybody may send, in bytes: there is room to write it in full, and pinned.
pub const MAX_SOURCE: usize = 896;

/// `domain-component`.
const LABEL: &str = "[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?";
/// 1 to 65535.
const PORT: &str =
    "0*(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])";
/// One group of an IPv6 address.
const GROUP: &str = "[0-9A-Fa-f]{1,4}";
/// `path-component`.
const COMPONENT: &str = "[a-z0-9]+(?:(?:[.]|_{1,2}|-+)[a-z0-9]+)*";
/// The same, that nobody takes for a host.
const FIRST: &str = "[a-z0-9]+(?:(?:_{1,2}|-+)[a-z0-9]+)*";
const TAG: &str = "[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}";

/// Matches what [`super::Reference`] parses.
pub fn pattern() -> String {
    let ipv6 = [
        "(?:G:){7}G",
        "(?:G:){1,7}:",
        "(?:G:){1,6}:G",
        "(?:G:){1,5}(?::G){1,2}",
        "(?:G:){1,4}(?::G){1,3}",
        "(?:G:){1,3}(?::G){1,4}",
        "(?:G:){1,2}(?::G){1,5}",
        "G:(?::G){1,6}",
        ":(?:(?::G){1,7}|:)",
    ];
    let ipv6 = ipv6.join("|").replace('G', GROUP);
    let named = format!("(?:localhost|{LABEL}(?:[.]{LABEL})+|\\[(?:{ipv6})\\])(?::{PORT})?");
    let host = format!("(?:{named}|{LABEL}:{PORT})");
    let path = format!("{COMPONENT}(?:/{COMPONENT})*");
    let on_hub = format!("{FIRST}(?:/{COMPONENT})+|{COMPONENT}");
    format!("^(?:{host}/{path}|{on_hub})(?::{TAG})?(?:@sha256:[0-9a-f]{{64}})?$")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::string::string_regex;

    use super::*;
    use crate::oci::Reference;

    /// The pattern, with few repetitions where there may be any number: no limit is hit then.
    fn few() -> String {
        let pattern = pattern().replace('*', "{0,3}").replace('+', "{1,3}");
        pattern.trim_start_matches('^').trim_end_matches('$').to_owned()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2048))]

        #[test]
        fn what_matches_is_a_reference(text in string_regex(&few()).unwrap()) {
            prop_assert!(text.parse::<Reference>().is_ok(), "{text}");
        }
    }
}
