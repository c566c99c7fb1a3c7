//! Here-documents (Dockerfile reference, "Here-Documents"): `<<WORD` in a `RUN`, `COPY` or `ADD` takes the
//! lines up to one that is the word.

/// How a here-document ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Heredoc {
    word: String,
    /// Tabs before the word are passed over (`<<-`).
    strips_tabs: bool,
}

impl Heredoc {
    /// Whether a line is the end.
    pub(super) fn ends_with(&self, line: &str) -> bool {
        let line = if self.strips_tabs { line.trim_start_matches('\t') } else { line };
        line == self.word
    }

    /// Those that an instruction begins, in order. What is quoted begins none.
    pub(super) fn in_instruction(text: &str) -> Vec<Self> {
        words(text).filter_map(|word| Self::of(&word)).collect()
    }

    fn of(word: &str) -> Option<Self> {
        let word = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
        let (strips_tabs, word) = match word.strip_prefix('-') {
            Some(word) => (true, word),
            None => (false, word),
        };
        let plain = word.trim_matches(['"', '\'']);
        let is_name = plain.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && plain.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
        is_name.then(|| Self { word: plain.to_owned(), strips_tabs })
    }
}

/// Words of a line, of which those that begin within quotes are passed over.
fn words(text: &str) -> impl Iterator<Item = String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for character in text.chars() {
        match (quote, character) {
            (None, c) if c.is_whitespace() => {
                words.push(std::mem::take(&mut word));
            }
            (None, c @ ('"' | '\'')) => {
                quote = Some(c);
                word.push(c);
            }
            (Some(open), c) if c == open => {
                quote = None;
                word.push(c);
            }
            // A space in quotes doesn't end the word.
            (_, c) => word.push(c),
        }
    }
    words.push(word);
    words.into_iter()
}
