//! Looks a setting up: command line, environment, `CONFIG_JSON`, settings file, default. Every
//! value keeps where it came from, for errors.

use std::ffi::OsString;
use std::fmt;
use std::io::Read;

use serde_yaml_ng::Value;

use super::ConfigError;
use super::setting::{CONFIG, Setting, SettingsArgs, all};

const MAX_FILE: u64 = 1 << 20;
const OUR_SECTION: &str = "clipwright";
const INLINE: &str = "CONFIG_JSON";

/// Where a value came from.
pub(super) enum Source {
    CommandLine,
    Environment,
    /// `CONFIG_JSON` or `settings file PATH`.
    Document(String),
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine => f.write_str("on the command line"),
            Self::Environment => f.write_str("in the environment"),
            Self::Document(name) => write!(f, "in {name}"),
            Self::Default => f.write_str("by default"),
        }
    }
}

/// A value, and how the user would find it again.
pub(super) struct SourcedValue {
    pub(super) text: String,
    /// The key as it was written.
    pub(super) key: String,
    pub(super) source: Source,
    /// How far down its source is; 0 is the strongest.
    pub(super) rank: usize,
}

impl SourcedValue {
    pub(super) fn bad(&self, setting: &Setting) -> ConfigError {
        bad_value(&self.key, &self.source, setting, Some(&self.text))
    }

    pub(super) fn bad_file(&self, reason: impl fmt::Display) -> ConfigError {
        ConfigError::BadFile {
            key: self.key.clone(),
            source_name: self.source.to_string(),
            path: self.text.clone().into(),
            reason: reason.to_string(),
        }
    }

    /// Reads the file that this value names.
    pub(super) fn read_file(&self) -> Result<String, ConfigError> {
        let mut text = String::new();
        std::fs::File::open(&self.text)
            .and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text))
            .map_err(|e| self.bad_file(e))?;
        if text.len() as u64 > MAX_FILE {
            return Err(self.bad_file(format_args!("expected at most {MAX_FILE} bytes")));
        }
        Ok(text)
    }
}

fn bad_value(key: &str, source: &Source, setting: &Setting, text: Option<&str>) -> ConfigError {
    let shown = text.filter(|_| !setting.secret).map(|text| text.chars().take(100).collect());
    ConfigError::BadValue {
        key: key.to_owned(),
        value: shown,
        source_name: source.to_string(),
        expected: setting.expected.to_owned(),
    }
}

fn empty(key: &str, source: &Source, setting: &Setting) -> ConfigError {
    let (key, source_name) = (key.to_owned(), source.to_string());
    ConfigError::Empty { key, source_name, expected: setting.expected }
}

/// Everything that the user said.
pub(super) struct Layers<'a> {
    args: &'a SettingsArgs,
    env: &'a dyn Fn(&str) -> Option<OsString>,
    /// The stronger first.
    documents: Vec<Document>,
}

impl<'a> Layers<'a> {
    /// Reads the settings file that the command line or the environment names.
    pub(super) fn read(
        args: &'a SettingsArgs,
        env: &'a dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Self, ConfigError> {
        let mut layers = Self { args, env, documents: Vec::new() };
        if let Some(inline) = layers.variable(INLINE, &CONFIG)? {
            layers.documents.push(Document::parse(INLINE.to_owned(), &inline)?);
        }
        if let Some(file) = layers.find(&CONFIG)? {
            let name = format!("settings file {}", file.text);
            layers.documents.push(Document::parse(name, &file.read_file()?)?);
        }
        Ok(layers)
    }

    /// The command line and the environment alone.
    pub(super) fn without_files(
        args: &'a SettingsArgs,
        env: &'a dyn Fn(&str) -> Option<OsString>,
    ) -> Self {
        Self { args, env, documents: Vec::new() }
    }

    /// An environment variable; an empty one is as good as none, unless a secret should be there.
    pub(super) fn variable(
        &self,
        name: &str,
        setting: &Setting,
    ) -> Result<Option<String>, ConfigError> {
        let value = (self.env)(name);
        if setting.secret && value.as_ref().is_some_and(|value| value.is_empty()) {
            return Err(empty(name, &Source::Environment, setting));
        }
        value
            .filter(|value| !value.is_empty())
            .map(OsString::into_string)
            .transpose()
            .map_err(|_| bad_value(name, &Source::Environment, setting, None))
    }

    /// The strongest value of a setting.
    pub(super) fn find(&self, setting: &Setting) -> Result<Option<SourcedValue>, ConfigError> {
        let found = |text, key: &str, source, rank| {
            Ok(Some(SourcedValue { text, key: key.to_owned(), source, rank }))
        };
        if let Some(text) = self.args.get(setting) {
            return found(text.to_owned(), &format!("--{}", setting.flag), Source::CommandLine, 0);
        }
        for name in setting.env {
            if let Some(text) = self.variable(name, setting)? {
                return found(text, name, Source::Environment, 1);
            }
        }
        for (i, document) in self.documents.iter().enumerate() {
            if let Some(text) = document.get(setting)? {
                let source = Source::Document(document.name.clone());
                return found(text, setting.file, source, 2 + i);
            }
        }
        match setting.default {
            Some(text) => found(text.to_owned(), setting.file, Source::Default, usize::MAX),
            None => Ok(None),
        }
    }

    /// The strongest value of a setting, parsed; `None` when nobody gave one.
    pub(super) fn parse<T>(
        &self,
        setting: &Setting,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        self.find(setting)?
            .map(|found| parse(&found.text).ok_or_else(|| found.bad(setting)))
            .transpose()
    }

    /// As [`Self::parse`], for settings that have a default.
    pub(super) fn require<T>(
        &self,
        setting: &Setting,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, ConfigError> {
        self.parse(setting, parse)?.ok_or(ConfigError::Missing {
            key: setting.file,
            expected: setting.expected,
            reason: "it has no default",
        })
    }
}

/// Settings in beta9's shape, YAML or JSON.
struct Document {
    name: String,
    root: Value,
}

impl Document {
    fn parse(name: String, text: &str) -> Result<Self, ConfigError> {
        // YAML's parser refuses some JSON, such as tabs.
        let root = match serde_json::from_str(text) {
            Ok(root) => root,
            Err(_) => serde_yaml_ng::from_str(text)
                .map_err(|e| ConfigError::Syntax { name: name.clone(), reason: e.to_string() })?,
        };
        let document = Self { name, root };
        document.refuse_unknown()?;
        Ok(document)
    }

    /// beta9's own sections hold much that is not for us; ours holds nothing else.
    fn refuse_unknown(&self) -> Result<(), ConfigError> {
        self.root.get(OUR_SECTION).map_or(Ok(()), |ours| self.refuse_unknown_in(ours, OUR_SECTION))
    }

    /// Looks through what stands at `path`.
    fn refuse_unknown_in(&self, section: &Value, path: &str) -> Result<(), ConfigError> {
        let Value::Mapping(mapping) = section else { return Ok(()) };
        let inside = format!("{path}.");
        let known = all().filter_map(|setting| setting.file.strip_prefix(&inside));
        for (key, value) in mapping {
            let key = key.as_str().unwrap_or("a key that is no text");
            let is_section =
                |name: &str| name.split_once('.').is_some_and(|(first, _)| first == key);
            if known.clone().any(is_section) {
                self.refuse_unknown_in(value, &format!("{inside}{key}"))?;
            } else if !known.clone().any(|name| name == key) {
                return Err(ConfigError::Unknown {
                    key: format!("{inside}{}", key.chars().take(100).collect::<String>()),
                    source_name: format!("in {}", self.name),
                    known: known.collect::<Vec<_>>().join(", "),
                });
            }
        }
        Ok(())
    }

    /// The value as text; null and the empty text are as good as nothing, as in beta9. A secret
    /// among our own keys is not: beta9's stand empty in its defaults, ours stand nowhere.
    fn get(&self, setting: &Setting) -> Result<Option<String>, ConfigError> {
        if setting.file.is_empty() {
            return Ok(None);
        }
        let source = Source::Document(self.name.clone());
        let mut value = &self.root;
        let mut path = String::new();
        for part in setting.file.split('.') {
            value = match value {
                Value::Null => return Ok(None),
                Value::Mapping(mapping) => match mapping.get(part) {
                    Some(value) => value,
                    None => return Ok(None),
                },
                _ => {
                    return Err(ConfigError::BadValue {
                        key: if path.is_empty() { "the document".to_owned() } else { path },
                        value: None,
                        source_name: source.to_string(),
                        expected: "a mapping".to_owned(),
                    });
                }
            };
            path = if path.is_empty() { part.to_owned() } else { format!("{path}.{part}") };
        }
        let text = match value {
            Value::Sequence(items) if setting.list => items
                .iter()
                .map(|item| scalar(item, setting))
                .collect::<Option<Vec<_>>>()
                .map(|items| items.join(",")),
            Value::Null => Some(String::new()),
            // beta9's own defaults have such mappings with nothing in them.
            Value::Mapping(_) if setting.mapping && says_nothing(value) => return Ok(None),
            Value::Mapping(_) if setting.mapping => serde_json::to_string(value).ok(),
            value => scalar(value, setting),
        };
        match text {
            Some(text) if text.is_empty() && setting.secret && is_ours(setting) => {
                Err(empty(setting.file, &source, setting))
            }
            Some(text) if text.is_empty() => Ok(None),
            Some(text) => Ok(Some(text)),
            None => Err(bad_value(setting.file, &source, setting, None)),
        }
    }
}

fn is_ours(setting: &Setting) -> bool {
    setting.file.split('.').next() == Some(OUR_SECTION)
}

fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Mapping(mapping) => mapping.values().all(says_nothing),
        _ => false,
    }
}

/// A number without quotes may not read back as it was written, which would spoil a secret.
fn scalar(value: &Value, setting: &Setting) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) if !setting.secret => Some(number.to_string()),
        Value::Bool(flag) if !setting.secret => Some(flag.to_string()),
        _ => None,
    }
}
