//! What layers may cost: a part of the settings that commands without a service have too.

use std::ffi::OsString;

use clap::{ArgMatches, Command};

use super::ConfigError;
use super::layers::Layers;
use super::setting::{self, SettingsArgs};
use super::value::between;
use crate::layer::Limits;

/// The limits given on the command line; flatten it into a clap command.
#[derive(Debug, Clone, Default)]
pub struct LimitsArgs(SettingsArgs);

impl LimitsArgs {
    /// Reads them: command line over environment over defaults.
    pub fn load(&self) -> Result<Limits, ConfigError> {
        self.resolve(&|name| std::env::var_os(name))
    }

    fn resolve(&self, env: &dyn Fn(&str) -> Option<OsString>) -> Result<Limits, ConfigError> {
        limits(&Layers::without_files(&self.0, env))
    }
}

/// Finds and checks them.
pub(super) fn limits(layers: &Layers<'_>) -> Result<Limits, ConfigError> {
    Limits::from_settings(|limit| {
        let row = limit.row();
        let setting = setting::LIMITS.iter().find(|(known, _)| *known == limit);
        setting.map_or(Ok(row.default), |(_, setting)| {
            layers.require(setting, |text| between(text, 1..=row.max))
        })
    })
}

impl clap::Args for LimitsArgs {
    fn augment_args(command: Command) -> Command {
        setting::augment(command, setting::limits())
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for LimitsArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = Self::default();
        args.update_from_arg_matches(matches)?;
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update(matches, setting::limits());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, FromArgMatches as _};

    use super::*;
    use crate::layer::Limit;

    fn load(args: &[&str], env: &[(&str, &str)]) -> Result<Limits, ConfigError> {
        let command = LimitsArgs::augment_args(Command::new("test").no_binary_name(true));
        let matches = command.try_get_matches_from(args).unwrap();
        let env = |name: &str| {
            env.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
        };
        LimitsArgs::from_arg_matches(&matches).unwrap().resolve(&env)
    }

    #[test]
    fn defaults_are_those_of_the_library() {
        assert_eq!(load(&[], &[]).unwrap(), Limits::default());
    }

    #[test]
    fn flags_go_over_the_environment() {
        let env = [("CLIPWRIGHT_LIMIT_XATTR_KIB", "2"), ("CLIPWRIGHT_LIMIT_RATIO", "7")];
        let limits = load(&["--limit-xattr-kib", "3"], &env).unwrap();
        assert_eq!((limits.ratio, limits.xattr_bytes), (7, 3 << 10));
        for bad in ["0", "2049", "x"] {
            let error = load(&["--limit-zstd-window-mib", bad], &[]).unwrap_err().to_string();
            assert!(error.contains("--limit-zstd-window-mib"), "{error}");
            assert!(error.contains("1 to 2048"), "{error}");
        }
    }

    /// The table for people says what the table in the code does.
    #[test]
    fn the_docs_have_every_limit() {
        let docs = include_str!("../../docs/operations.md").replace(',', "");
        for limit in Limit::ALL {
            let row = limit.row();
            let line = format!("| `{}` | {} |", row.key, row.default);
            let line = docs.lines().find(|found| found.starts_with(&line));
            let line = line.unwrap_or_else(|| panic!("{} is not in the docs", row.key));
            assert!(*limit == Limit::RatioFrom || line.ends_with(&format!("| `{}` |", row.code)));
        }
    }
}
