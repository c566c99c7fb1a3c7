//! How images are read: the one part of the settings that commands without a service have too.

use std::ffi::OsString;

use clap::{ArgMatches, Command};

use super::ConfigError;
use super::layers::Layers;
use super::setting::{self, INDEXING, Setting, SettingsArgs};
use super::value::between;
use crate::layer::Limits;

/// How images are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexingSettings {
    /// Plain bytes from one place to begin reading at to the next.
    pub span: u64,
    /// What layers may cost.
    pub limits: Limits,
}

/// Those settings on the command line; flatten it into a clap command.
#[derive(Debug, Clone, Default)]
pub struct IndexingArgs(SettingsArgs);

impl IndexingArgs {
    /// Reads them: command line over environment over defaults.
    pub fn load(&self) -> Result<IndexingSettings, ConfigError> {
        self.resolve(&|name| std::env::var_os(name))
    }

    fn resolve(
        &self,
        env: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<IndexingSettings, ConfigError> {
        IndexingSettings::of(&Layers::without_files(&self.0, env))
    }
}

impl IndexingSettings {
    pub(super) fn of(layers: &Layers<'_>) -> Result<Self, ConfigError> {
        let number = |setting: &Setting, max| layers.require(setting, |t| between(t, 1..=max));
        let count = |setting| number(setting, 1_000_000_000);
        let (kib, mib) = (1 << 10, 1 << 20);
        Ok(Self {
            span: number(&setting::SPAN_MIB, 32)? * mib,
            limits: Limits {
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
            },
        })
    }
}

impl clap::Args for IndexingArgs {
    fn augment_args(command: Command) -> Command {
        setting::augment(command, INDEXING)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for IndexingArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = Self::default();
        args.update_from_arg_matches(matches)?;
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update(matches, INDEXING);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, FromArgMatches as _};

    use super::*;
    use crate::gzip::DEFAULT_SPAN;
    use crate::layer::Limit;

    fn load(args: &[&str], env: &[(&str, &str)]) -> Result<IndexingSettings, ConfigError> {
        let command = IndexingArgs::augment_args(Command::new("test").no_binary_name(true));
        let matches = command.try_get_matches_from(args).unwrap();
        let env = |name: &str| {
            env.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
        };
        IndexingArgs::from_arg_matches(&matches).unwrap().resolve(&env)
    }

    #[test]
    fn defaults_are_those_of_the_library() {
        let settings = IndexingSettings { span: DEFAULT_SPAN, limits: Limits::default() };
        assert_eq!(load(&[], &[]).unwrap(), settings);
    }

    #[test]
    fn flags_go_over_the_environment() {
        let env = [("CLIPWRIGHT_SPAN_MIB", "2"), ("CLIPWRIGHT_LIMIT_RATIO", "7")];
        let settings = load(&["--span-mib", "8", "--limit-xattr-kib", "3"], &env).unwrap();
        assert_eq!((settings.span, settings.limits.ratio), (8 << 20, 7));
        assert_eq!(settings.limits.xattr_bytes, 3 << 10);
        for bad in ["0", "33", "x"] {
            let error = load(&["--span-mib", bad], &[]).unwrap_err().to_string();
            assert!(error.contains("--span-mib") && error.contains("1 to 32"), "{error}");
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
            let known = INDEXING.iter().any(|setting| setting.file == limit.setting());
            assert!(known, "{}", limit.setting());
        }
    }
}
