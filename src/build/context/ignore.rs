//! `.dockerignore` with Docker's semantics (Docker docs, ".dockerignore file"): a rule a line, `#` begins a
//! comment, `!` takes back, the last rule that fits decides, and a rule that fits a directory fits what is
//! in it. Within a name `*` is any number of characters, `?` one and `[a-z]` one of them; `**` is any number of
//! names.

use crate::build::error::ContextError;

/// The rules of one file.
#[derive(Debug, Clone, Default)]
pub struct Ignore(Vec<Rule>);

#[derive(Debug, Clone)]
struct Rule {
    /// One for each name; `None` is `**`.
    names: Vec<Option<Vec<Part>>>,
    takes_back: bool,
}

#[derive(Debug, Clone)]
enum Part {
    /// This character.
    One(char),
    /// Any.
    Any,
    /// Any number.
    Many,
    /// One of these ranges, or of none.
    Class { ranges: Vec<(char, char)>, is_negated: bool },
}

impl Ignore {
    /// Reads the rules.
    pub fn parse(text: &str) -> Result<Self, ContextError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut rules = Vec::new();
        for (index, line) in text.lines().enumerate() {
            if line.starts_with('#') {
                continue;
            }
            let pattern = line.trim();
            let (takes_back, pattern) = match pattern.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, pattern),
            };
            if pattern.is_empty() && !takes_back {
                continue;
            }
            let names = names(pattern).filter(|names| !(names.is_empty() && takes_back));
            let names = names.ok_or_else(|| ContextError::Ignore {
                line: index + 1,
                reason: format!("{pattern:?} is no pattern"),
            })?;
            // `.` and `/` stand for the context itself, which is never left out.
            if !names.is_empty() {
                rules.push(Rule { names, takes_back });
            }
        }
        Ok(Self(rules))
    }

    /// Whether a path, relative and clean, is left out.
    pub fn leaves_out(&self, path: &str) -> bool {
        let names: Vec<&str> = path.split('/').collect();
        let fits = |rule: &Rule| fits_beginning(&rule.names, &names);
        self.0.iter().rev().find(|rule| fits(rule)).is_some_and(|rule| !rule.takes_back)
    }

    /// Whether something below a directory that is left out may be in all the same.
    pub fn takes_back_below(&self, directory: &str) -> bool {
        let names: Vec<&str> = directory.split('/').collect();
        self.0.iter().filter(|rule| rule.takes_back).any(|rule| {
            // What could still fit: each name so far does, or `**` has swallowed them.
            rule.names
                .iter()
                .zip(&names)
                .take_while(|(name, _)| name.is_some())
                .all(|(name, found)| name.as_deref().is_none_or(|parts| fits_name(parts, found)))
        })
    }
}

/// The names of a pattern, clean: `.` is nothing, and `..` goes back but not beyond the beginning.
fn names(pattern: &str) -> Option<Vec<Option<Vec<Part>>>> {
    let mut names: Vec<&str> = Vec::new();
    for name in pattern.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    names
        .into_iter()
        .map(|name| if name == "**" { Some(None) } else { parts(name).map(Some) })
        .collect()
}

fn parts(name: &str) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    let mut rest = name.chars();
    while let Some(character) = rest.next() {
        parts.push(match character {
            '*' => Part::Many,
            '?' => Part::Any,
            '\\' => Part::One(rest.next()?),
            '[' => {
                let (mut ranges, mut is_negated, mut is_first) = (Vec::new(), false, true);
                loop {
                    let from = match rest.next()? {
                        '^' if is_first && !is_negated => {
                            is_negated = true;
                            continue;
                        }
                        ']' if !is_first => break,
                        '\\' => rest.next()?,
                        other => other,
                    };
                    is_first = false;
                    let mut ahead = rest.clone();
                    let to = match (ahead.next(), ahead.next()) {
                        (Some('-'), Some(to)) if to != ']' => {
                            rest = ahead;
                            to
                        }
                        _ => from,
                    };
                    ranges.push((from, to));
                }
                Part::Class { ranges, is_negated }
            }
            other => Part::One(other),
        });
    }
    Some(parts)
}

/// Whether a pattern fits the first few of these names. What it costs is the product of both lengths, however
/// many `**` there are.
fn fits_beginning(pattern: &[Option<Vec<Part>>], names: &[&str]) -> bool {
    // How many names the pattern so far may have taken.
    let mut reached = vec![false; names.len() + 1];
    reached[0] = true;
    for (index, part) in pattern.iter().enumerate() {
        let mut next = vec![false; names.len() + 1];
        match part {
            None => {
                // At the end `**` is everything below, of which there must be something.
                let least = usize::from(index + 1 == pattern.len());
                if let Some(first) = reached.iter().position(|is| *is) {
                    let from = (first + least).min(next.len());
                    next[from..].fill(true);
                }
            }
            Some(parts) => {
                for (at, name) in names.iter().enumerate().filter(|(at, _)| reached[*at]) {
                    next[at + 1] = fits_name(parts, name);
                }
            }
        }
        reached = next;
    }
    reached[1..].contains(&true)
}

fn fits_name(parts: &[Part], name: &str) -> bool {
    let name: Vec<char> = name.chars().collect();
    // How many characters the parts so far may have taken.
    let mut reached = vec![false; name.len() + 1];
    reached[0] = true;
    for part in parts {
        let mut next = vec![false; name.len() + 1];
        if matches!(part, Part::Many) {
            let first = reached.iter().position(|is| *is).unwrap_or(next.len());
            next[first..].fill(true);
            reached = next;
            continue;
        }
        for (at, _) in reached.iter().enumerate().filter(|(_, is)| **is) {
            match (part, name.get(at)) {
                (Part::Many, _) | (_, None) => {}
                (Part::Any, _) => next[at + 1] = true,
                (Part::One(wanted), Some(found)) => next[at + 1] |= wanted == found,
                (Part::Class { ranges, is_negated }, Some(found)) => {
                    let is_in = ranges.iter().any(|(from, to)| (from..=to).contains(&found));
                    next[at + 1] |= is_in != *is_negated;
                }
            }
        }
        reached = next;
    }
    reached.last() == Some(&true)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_rule_that_fits_decides() {
        let text = "# comment\n\n*/temp*\n*/*/temp*\ntemp?\n**/*.go\n!keep.go\n/docs/\n!docs/README.md\n\
                    a/../b/./c\n[x-z]1\n**/node_modules/**\n.\n";
        let ignore = Ignore::parse(text).unwrap();
        for (path, expected) in [
            ("temp", false),
            ("tempa", true),
            ("tempab", false),
            ("dir/temporary", true),
            ("dir/sub/temporary.txt", true),
            ("dir/sub/more/temporary.txt", false),
            ("main.go", true),
            ("deep/er/main.go", true),
            ("keep.go", false),
            ("deep/keep.go", true),
            ("docs", true),
            ("docs/a/b", true),
            ("docs/README.md", false),
            ("b/c", true),
            ("a", false),
            ("y1", true),
            ("w1", false),
            ("node_modules", false),
            ("node_modules/a", true),
            ("p/node_modules/a/b", true),
            ("other", false),
        ] {
            assert_eq!(ignore.leaves_out(path), expected, "{path}");
        }
        assert!(ignore.takes_back_below("docs"));
        assert!(!ignore.takes_back_below("b/c"));
        let all = Ignore::parse("*\n!src\n!**/*.md").unwrap();
        let left_out = ["a", "src", "src/x", "b/y", "b/y.md"].map(|path| all.leaves_out(path));
        assert_eq!(left_out, [true, false, false, true, false]);
        assert!(all.takes_back_below("b"));
    }

    /// Trying each way in which `**` can be taken would not end in anybody's life.
    #[test]
    fn many_patterns_of_any_depth_are_matched_in_little_time() {
        let pattern = vec!["**/a"; 30].join("/");
        let path = vec!["a"; 200].join("/");
        let fits = Ignore::parse(&pattern).unwrap();
        assert!(fits.leaves_out(&path));
        let fits_not = Ignore::parse(&format!("{pattern}/**/b")).unwrap();
        assert!(!fits_not.leaves_out(&path));
        let stars = Ignore::parse(&format!("{}b", "*a".repeat(100))).unwrap();
        assert!(!stars.leaves_out(&"a".repeat(255)));
        let ends = Ignore::parse("a/**/**").unwrap();
        assert_eq!(["a", "a/b", "a/b/c"].map(|path| ends.leaves_out(path)), [false, true, true]);
    }

    #[test]
    fn what_is_no_pattern_is_said_with_its_line() {
        for (text, line) in [("a\n[b", 2), ("!", 1), ("a\\", 1)] {
            match Ignore::parse(text).unwrap_err() {
                ContextError::Ignore { line: found, .. } => assert_eq!(found, line),
                other => panic!("{other}"),
            }
        }
    }

    proptest! {
        #[test]
        fn any_rules_decide(text in "[a-c*?!/.\\[\\]\\^\\\\\n-]{0,30}", path in "[a-c]{1,3}(/[a-c.]{1,3}){0,3}") {
            if let Ok(ignore) = Ignore::parse(&text) {
                let _ = (ignore.leaves_out(&path), ignore.takes_back_below(&path));
            }
        }
    }
}
