//! From lines to instructions: comments, the escape character, lines that go on, here-documents.

use super::Instruction;
use super::heredoc::{Heredoc, LastLines};
use crate::build::error::DockerfileError;

/// All there are (Dockerfile reference, "Overview").
const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// The instructions of a text, in order.
pub(super) fn instructions(text: &str) -> Result<Vec<Instruction>, DockerfileError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let escape = escape(text);
    let last_lines = LastLines::of(text);
    let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    let mut found = Vec::new();
    while let Some((number, line)) = lines.next() {
        if is_skipped(line) {
            continue;
        }
        let mut whole = String::new();
        let (mut last, mut next) = (number, Some((number, line)));
        while let Some((at, line)) = next {
            last = at;
            let trimmed = line.trim_end();
            let Some(goes_on) = trimmed.strip_suffix(escape) else {
                whole.push_str(line);
                break;
            };
            whole.push_str(goes_on);
            // Comments and empty lines in between belong to nobody.
            next = lines.by_ref().find(|(_, line)| !is_skipped(line));
        }
        let mut instruction = instruction(number, whole.trim())?;
        let takes_text = matches!(instruction.keyword.as_str(), "RUN" | "COPY" | "ADD");
        let heredocs =
            if takes_text { Heredoc::in_instruction(&instruction.rest) } else { Vec::new() };
        for heredoc in heredocs {
            // Without its end it is none, as in a shell's arithmetic.
            if !last_lines.end_behind(last, &heredoc) {
                continue;
            }
            instruction.has_heredoc = true;
            if let Some((end, _)) = lines.by_ref().find(|(_, line)| heredoc.ends_with(line)) {
                last = end;
            }
        }
        found.push(instruction);
    }
    Ok(found)
}

fn is_skipped(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#')
}

/// The escape character, which a directive at the top may change.
fn escape(text: &str) -> char {
    for line in text.lines() {
        let Some(comment) = line.trim().strip_prefix('#') else { break };
        let Some((name, value)) = comment.split_once('=') else { break };
        if name.trim().eq_ignore_ascii_case("escape") && value.trim() == "`" {
            return '`';
        }
    }
    '\\'
}

fn instruction(line: usize, text: &str) -> Result<Instruction, DockerfileError> {
    let (keyword, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let keyword = keyword.to_ascii_uppercase();
    let wrong = |reason: String| Err(DockerfileError { line, reason });
    if !KEYWORDS.contains(&keyword.as_str()) {
        let shown: String = keyword.chars().take(40).collect();
        return wrong(format!("{shown:?} is no instruction"));
    }
    let rest = rest.trim().to_owned();
    // `CMD` and its like may be emptied.
    if rest.is_empty() && !matches!(keyword.as_str(), "CMD" | "ENTRYPOINT" | "SHELL") {
        return wrong(format!("{keyword} needs an argument"));
    }
    Ok(Instruction { line, keyword, rest, has_heredoc: false })
}
