//! What a registry asks for in `WWW-Authenticate` (RFC 9110 section 11.6.1), read as loosely as Go's
//! clients do and looser: registries quote with either quote or not at all, and put blanks or
//! semicolons where commas belong. It knows nothing of HTTP or of credentials.

/// One challenge of a header, which may hold several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Challenge {
    /// In lower case.
    pub(crate) scheme: String,
    /// Names in lower case, and their values.
    pub(crate) parameters: Vec<(String, String)>,
}

impl Challenge {
    /// A parameter that is not empty; of several with one name the last, as for Go's clients.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        let (_, value) = self.parameters.iter().rfind(|(key, _)| key == name)?;
        Some(value.as_str()).filter(|value| !value.is_empty())
    }
}

/// The challenges in a header, in order. A word that has a value is a parameter of the scheme before
/// it, any other begins a new challenge; what is neither is passed over.
pub(crate) fn challenges(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches(|c| is_separator(c) || is_mark(c));
        if rest.is_empty() {
            return challenges;
        }
        let (word, behind) = split(rest, |c| is_separator(c) || is_mark(c));
        let word = word.to_ascii_lowercase();
        if let Some(value) = behind.trim_start().strip_prefix('=') {
            let (value, behind) = read_value(value.trim_start());
            if let Some(challenge) = challenges.last_mut() {
                challenge.parameters.push((word, value));
            }
            rest = behind;
        } else {
            challenges.push(Challenge { scheme: word, parameters: Vec::new() });
            rest = behind;
        }
    }
}

fn is_separator(c: char) -> bool {
    c.is_whitespace() || matches!(c, ',' | ';')
}

fn is_mark(c: char) -> bool {
    matches!(c, '=' | '"' | '\'')
}

/// The text up to the first character that `ends` it, and the rest.
fn split(text: &str, ends: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(ends).unwrap_or(text.len()))
}

/// A value at the start of `text`, and what is behind it. A quote that isn't closed goes to the end.
fn read_value(text: &str) -> (String, &str) {
    if let Some(text) = text.strip_prefix('\'') {
        let (value, behind) = split(text, |c| c == '\'');
        return (value.to_owned(), behind.strip_prefix('\'').unwrap_or(behind));
    }
    let Some(text) = text.strip_prefix('"') else {
        let (value, behind) = split(text, is_separator);
        return (value.to_owned(), behind);
    };
    let mut value = String::new();
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match c {
            '"' => break,
            '\\' => value.extend(characters.next()),
            c => value.push(c),
        }
    }
    (value, characters.as_str())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(header: &str) -> Vec<(String, Vec<(String, String)>)> {
        let read = challenges(header).into_iter();
        read.map(|challenge| (challenge.scheme, challenge.parameters)).collect()
    }

    fn one(scheme: &str, parameters: &[(&str, &str)]) -> (String, Vec<(String, String)>) {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        (scheme.to_owned(), parameters.iter().map(owned).collect())
    }

    #[test]
    fn every_spelling() {
        let whole = [("realm", "https://a/t?x=y"), ("service", "s, x")];
        for header in [
            r#"Bearer realm="https://a/t?x=y",service="s, x""#,
            r#"bearer  realm="https://a/t?x=y",  service="s, x""#,
            r#"BEARER Realm="https://a/t?x=y" SERVICE="s, x""#,
            r#"Bearer realm="https://a/t?x=y";service="s, x""#,
            r#"Bearer realm = "https://a/t?x=y" ; service = "s, x";"#,
            r"Bearer realm='https://a/t?x=y', service='s, x'",
            r#"Bearer realm=https://a/t?x=y, service="s, x""#,
            r"Bearer realm=https://a/t?x=y service='s, x'",
            "Bearer\trealm=https://a/t?x=y;\tservice=\"s, x\"",
            r#", Bearer ,realm="https://a/t?x=y",,service="s, x","#,
            r#"Bearer realm="https://a/t?x=y",service="s, x"#,
        ] {
            assert_eq!(read(header), [one("bearer", &whole)], "{header}");
        }
        assert_eq!(read("Basic realm=/"), [one("basic", &[("realm", "/")])]);
        assert_eq!(read("Basic"), [one("basic", &[])]);
        assert_eq!(
            read(r#"Basic realm="a \"b\" \\c""#),
            [one("basic", &[("realm", r#"a "b" \c"#)])]
        );
        assert_eq!(read(r#"Basic realm="""#), [one("basic", &[("realm", "")])]);
        assert_eq!(read(r#"realm="x""#), []);
        assert_eq!(read(" ,;=\"' "), []);
    }

    #[test]
    fn several_in_one_header() {
        assert_eq!(
            read(
                r#"Negotiate, Basic realm="r", charset="UTF-8", Bearer realm="https://a",service=s"#
            ),
            [
                one("negotiate", &[]),
                one("basic", &[("realm", "r"), ("charset", "UTF-8")]),
                one("bearer", &[("realm", "https://a"), ("service", "s")]),
            ]
        );
        // A value that stands alone (RFC 9110, token68) is no parameter of anybody else's.
        assert_eq!(
            read(r#"Negotiate abc==, Basic realm="r""#),
            [one("negotiate", &[("abc", "=")]), one("basic", &[("realm", "r")])]
        );
    }

    #[test]
    fn the_last_of_a_name_counts_unless_empty() {
        let challenge = &challenges(r#"Bearer realm="a",realm="b",service="""#)[0];
        assert_eq!(
            (challenge.parameter("realm"), challenge.parameter("service")),
            (Some("b"), None)
        );
    }

    /// A challenge, and the ways to write it.
    #[derive(Debug, Clone)]
    struct Spelling {
        scheme: String,
        parameters: Vec<(String, String, usize, usize)>,
    }

    fn spelling() -> impl Strategy<Value = Spelling> {
        let parameter = ("[a-z_]{1,8}", "[ -~]{0,20}", 0..3usize, 0..5usize);
        ("[A-Za-z][A-Za-z0-9-]{0,9}", proptest::collection::vec(parameter, 0..4))
            .prop_map(|(scheme, parameters)| Spelling { scheme, parameters })
    }

    fn write(spellings: &[Spelling]) -> String {
        let mut header = String::new();
        for Spelling { scheme, parameters } in spellings {
            header += if header.is_empty() { "" } else { ", " };
            header += scheme;
            for (number, (key, value, quote, between)) in parameters.iter().enumerate() {
                header += if number == 0 { "  " } else { [",", ", ", "; ", " ", ";"][*between] };
                let bare = !value.is_empty()
                    && !value.starts_with(['"', '\''])
                    && !value.contains([' ', ',', ';']);
                let parameter = match quote {
                    0 if bare => format!("{key}={value}"),
                    1 if !value.contains('\'') => format!("{key}='{value}'"),
                    _ => format!("{key}=\"{}\"", value.replace('\\', r"\\").replace('"', "\\\"")),
                };
                header += &parameter;
            }
        }
        header
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn however_it_is_written(spellings in proptest::collection::vec(spelling(), 0..4)) {
            let header = write(&spellings);
            let wanted: Vec<_> = spellings
                .iter()
                .map(|Spelling { scheme, parameters }| {
                    let parameters = parameters.iter();
                    let parameters = parameters.map(|(key, value, ..)| (key.clone(), value.clone()));
                    (scheme.to_ascii_lowercase(), parameters.collect::<Vec<_>>())
                })
                .collect();
            prop_assert_eq!(read(&header), wanted, "{}", header);
        }

        #[test]
        fn never_panics(text in any::<String>(), near in "[A-Za-z=\"', ;\\\\/]{0,60}") {
            for text in [text, near] {
                for challenge in challenges(&text) {
                    prop_assert!(!challenge.scheme.is_empty());
                    prop_assert!(!challenge.scheme.contains(|c| is_separator(c) || is_mark(c)));
                }
            }
        }
    }
}
