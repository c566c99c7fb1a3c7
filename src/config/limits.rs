//! What layers may cost: a part of the settings that commands without a service have too.

use std::ffi::OsString;

use clap::{ArgMatches, Command};

use super::ConfigError;
use super::layers::Layers;
use super::setting::{self, LIMITS, Setting, SettingsArgs};
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
    let number = |setting: &Setting, max| layers.require(setting, |text| between(text, 1..=max));
    let count = |setting| number(setting, 1_000_000_000);
    let (kib, mib) = (1 << 10, 1 << 20);
    Ok(Limits {
        entries: count(&setting::LIMIT_ENTRIES)?,
        path_bytes: count(&setting::LIMIT_PATH_BYTES)?,
        path_depth: count(&setting::LIMIT_PATH_DEPTH)?,
        plain_bytes: count(&setting::LIMIT_PLAIN_MIB)? * mib,
        ratio: count(&setting::LIMIT_RATIO)?,
        ratio_from: count(&setting::LIMIT_RATIO_FROM_MIB)? * mib,
        xattr_bytes: count(&setting::LIMIT_XATTR_KIB)? * kib,
        extension_bytes: count(&setting::LIMIT_EXTENSION_KIB)? * kib,
        zstd_window: number(&setting::LIMIT_ZSTD_WINDOW_MIB, 2048)? * mib,
        nodes: count(&setting::LIMIT_NODES)?,
        tree_bytes: count(&setting::LIMIT_TREE_MIB)? * mib,
    })
}

impl clap::Args for LimitsArgs {
    fn augment_args(command: Command) -> Command {
        setting::augment(command, LIMITS)
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
        self.0.update(matches, LIMITS);
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

    /// What an error tells people to raise is there to be raised.
    #[test]
    fn every_limit_has_its_setting() {
        use Limit::{
            Entries, ExtensionBytes, Nodes, PathBytes, PathDepth, PlainBytes, Ratio, TreeBytes,
            XattrBytes, ZstdWindow,
        };
        for limit in [
            Entries,
            PathBytes,
            PathDepth,
            PlainBytes,
            Ratio,
            XattrBytes,
            ExtensionBytes,
            ZstdWindow,
            Nodes,
            TreeBytes,
        ] {
            let known = LIMITS.iter().any(|setting| setting.file == limit.setting());
            assert!(known, "{}", limit.setting());
        }
    }
}
