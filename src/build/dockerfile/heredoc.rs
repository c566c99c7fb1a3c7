//! Here-documents (Dockerfile reference, "Here-Documents"): `<<WORD` in a `RUN`, `COPY` or `ADD` takes the
//! lines up to one that is the word.

use std::collections::HashMap;

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

/// Where lines stand for the last time: a word that ends nothing any more needs no search through the rest of
/// the text, which a text with many of them would turn into work without end.
pub(super) struct LastLines<'a> {
    whole: HashMap<&'a str, usize>,
    without_tabs: HashMap<&'a str, usize>,
}

impl<'a> LastLines<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        let numbered = || text.lines().enumerate().map(|(index, line)| (line, index + 1));
        let without_tabs = numbered().map(|(line, at)| (line.trim_start_matches('\t'), at));
        Self { whole: numbered().collect(), without_tabs: without_tabs.collect() }
    }

    /// Whether a line behind the one of this number, from 1, ends the here-document.
    pub(super) fn end_behind(&self, line: usize, heredoc: &Heredoc) -> bool {
        let lines = if heredoc.strips_tabs { &self.without_tabs } else { &self.whole };
        lines.get(heredoc.word.as_str()).is_some_and(|last| *last > line)
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
