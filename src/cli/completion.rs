//! `clipwright completion`: what makes a shell complete the commands.

use std::io::Write as _;

use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

/// Print what makes a shell complete these commands. For bash: `source <(clipwright completion bash)`.
#[derive(Debug, Args)]
pub(super) struct Completion {
    /// Which shell: bash, zsh or fish
    #[arg(value_parser = shell)]
    shell: Shell,
}

fn shell(text: &str) -> Result<Shell, String> {
    let known = [("bash", Shell::Bash), ("zsh", Shell::Zsh), ("fish", Shell::Fish)];
    let found = known.into_iter().find(|(name, _)| *name == text);
    found.map(|(_, shell)| shell).ok_or_else(|| "expected bash, zsh or fish".to_owned())
}

impl Completion {
    pub(super) fn run<C: CommandFactory>(self) -> anyhow::Result<()> {
        // Into memory first: the generator knows no reader that has seen enough.
        let mut script = Vec::new();
        generate(self.shell, &mut C::command(), "clipwright", &mut script);
        Ok(std::io::stdout().lock().write_all(&script)?)
    }
}
