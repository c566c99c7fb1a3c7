//! Many of a kind: the first few are named, the rest counted.

use std::fmt;

/// How many are named.
const NAMED: usize = 5;

/// Names, of which a few are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Examples {
    first: Vec<String>,
    count: usize,
}

impl Examples {
    pub(crate) fn push(&mut self, name: impl fmt::Display) {
        if self.first.len() < NAMED {
            self.first.push(name.to_string());
        }
        self.count += 1;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl<T: fmt::Display> FromIterator<T> for Examples {
    fn from_iter<I: IntoIterator<Item = T>>(names: I) -> Self {
        let mut examples = Self::default();
        names.into_iter().for_each(|name| examples.push(name));
        examples
    }
}

impl fmt::Display for Examples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.first.join(", "))?;
        match self.count - self.first.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_counted() {
        let told = |count| (1..=count).map(|n| format!("/{n}")).collect::<Examples>().to_string();
        assert_eq!(told(2), "/1, /2");
        assert_eq!(told(7), "/1, /2, /3, /4, /5 and 2 more");
        assert!(Examples::default().is_empty());
    }
}
