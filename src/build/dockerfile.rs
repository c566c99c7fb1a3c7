//! A Dockerfile, as far as the service has to understand it: which instruction stands in which line and
//! stage, which images it begins with, and what the installed builder can't do. What the instructions mean
//! is the builder's (Dockerfile reference, "Format", "Parser directives", "FROM", "Here-Documents").

use std::collections::BTreeMap;

use super::error::DockerfileError;

/// Values of variables.
mod expand;
/// Text that goes on until a word.
mod heredoc;
/// From lines to instructions.
mod parse;

use expand::expand;

/// What it may have at most, in bytes.
pub const MAX_DOCKERFILE: usize = 256 << 10;
/// Stages at most, and images that they take something from.
const MAX_STAGES: usize = 256;
/// Bytes of all values of the `ARG`s before the first `FROM`.
const MAX_VALUES: usize = 1 << 20;

/// A parsed Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// `ARG` instructions before the first stage.
    arguments: Vec<Instruction>,
    /// At least one.
    pub(super) stages: Vec<Stage>,
}

/// An instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Instruction {
    /// Where it begins, counted from 1.
    pub(super) line: usize,
    /// In capitals.
    pub(super) keyword: String,
    /// What follows, in one line.
    pub(super) rest: String,
    /// Whether text follows that goes on until a word (`<<EOF`).
    has_heredoc: bool,
}

/// A `FROM` and what follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stage {
    /// In small letters; empty if it has none.
    name: String,
    /// `FROM` first.
    pub(super) instructions: Vec<Instruction>,
}

/// An image that a Dockerfile takes something from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalImage {
    /// As the builder sees it: with variables replaced, and else as it is written.
    pub name: String,
    /// Platform that the Dockerfile asks for, if it does.
    pub platform: Option<String>,
    /// Where it is asked for first.
    pub line: usize,
}

/// What the installed builder can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// It understands here-documents: buildah does from 1.33 on.
    pub heredocs: bool,
}

/// What is asked for besides the text.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// Values of `ARG`s.
    pub arguments: &'a BTreeMap<String, String>,
    /// The stage to build; the last one when absent.
    pub target: Option<&'a str>,
    /// `os/architecture[/variant]` of the image.
    pub platform: &'a crate::oci::Platform,
}

impl Dockerfile {
    /// Parses it. What is wrong in a way that the builder would stumble over late, or say badly, is said
    /// here.
    pub fn parse(text: &str, features: Features) -> Result<Self, DockerfileError> {
        let instructions = parse::instructions(text)?;
        if let Some(instruction) = instructions.iter().find(|i| i.has_heredoc && !features.heredocs)
        {
            let reason =
                "here-documents (<<) need buildah 1.33 or newer, which is not installed".to_owned();
            return Err(DockerfileError { line: instruction.line, reason });
        }
        let mut dockerfile = Self { arguments: Vec::new(), stages: Vec::new() };
        for instruction in instructions {
            let line = instruction.line;
            match (instruction.keyword.as_str(), dockerfile.stages.last_mut()) {
                ("FROM", _) => {
                    let from = From::parse(&instruction)?;
                    let name = from.name.unwrap_or_default().to_lowercase();
                    if dockerfile.stages.len() == MAX_STAGES {
                        let reason = format!("expected at most {MAX_STAGES} stages");
                        return Err(DockerfileError { line, reason });
                    }
                    dockerfile.stages.push(Stage { name, instructions: vec![instruction] });
                }
                ("ARG", None) => dockerfile.arguments.push(instruction),
                (keyword, None) => {
                    let reason = format!("{keyword} stands before the first FROM");
                    return Err(DockerfileError { line, reason });
                }
                (_, Some(stage)) => stage.instructions.push(instruction),
            }
        }
        if dockerfile.stages.is_empty() {
            let (line, reason) = (1, "there is no FROM".to_owned());
            return Err(DockerfileError { line, reason });
        }
        Ok(dockerfile)
    }

    /// The images that the stages up to the target take something from, each once.
    pub fn externals(&self, scope: &Scope<'_>) -> Result<Vec<ExternalImage>, DockerfileError> {
        let globals = self.globals(scope)?;
        let last = self.last_stage(scope.target)?;
        let mut found: Vec<ExternalImage> = Vec::new();
        let mut add = |image: ExternalImage| {
            if found.iter().any(|known| known.name == image.name) {
                return Ok(());
            }
            if found.len() == MAX_STAGES {
                let reason = format!("expected at most {MAX_STAGES} images to take something from");
                return Err(DockerfileError { line: image.line, reason });
            }
            found.push(image);
            Ok(())
        };
        for (number, stage) in self.stages.iter().enumerate().take(last + 1) {
            let is_stage = |name: &str| {
                let earlier = &self.stages[..number];
                earlier.iter().any(|stage| stage.name == name.to_lowercase())
                    || name.parse().is_ok_and(|index: usize| index < number)
            };
            for instruction in &stage.instructions {
                let line = instruction.line;
                if instruction.keyword == "FROM" {
                    let from = From::parse(instruction)?;
                    let name = expand(&from.image, &globals, line)?;
                    if name.is_empty() {
                        let reason = format!("FROM needs an image, and {} is empty", from.image);
                        return Err(DockerfileError { line, reason });
                    }
                    let earlier =
                        self.stages[..number].iter().any(|stage| stage.name == name.to_lowercase());
                    if name != "scratch" && !earlier {
                        let platform = from.platform.map(|text| expand(&text, &globals, line));
                        add(ExternalImage { name, platform: platform.transpose()?, line })?;
                    }
                } else {
                    for name in sources(instruction) {
                        if !is_stage(&name) && name != "scratch" {
                            add(ExternalImage { name, platform: None, line })?;
                        }
                    }
                }
            }
        }
        Ok(found)
    }

    /// The instruction of a step, counted as the builder does: both from 1.
    pub(super) fn instruction(&self, stage: u32, step: u32) -> Option<&Instruction> {
        let at = |number: u32| usize::try_from(number).ok()?.checked_sub(1);
        self.stages.get(at(stage)?)?.instructions.get(at(step)?)
    }

    /// How many instructions a stage has, counted from 1.
    pub(super) fn instruction_count(&self, stage: u32) -> u32 {
        let at = usize::try_from(stage).unwrap_or_default().checked_sub(1);
        let stage = at.and_then(|at| self.stages.get(at));
        stage.map_or(0, |stage| u32::try_from(stage.instructions.len()).unwrap_or(u32::MAX))
    }

    /// How many stages there are.
    pub(super) fn stage_count(&self) -> u32 {
        u32::try_from(self.stages.len()).unwrap_or(u32::MAX)
    }

    fn last_stage(&self, target: Option<&str>) -> Result<usize, DockerfileError> {
        let last = self.stages.len() - 1;
        let Some(target) = target else { return Ok(last) };
        let named = self.stages.iter().position(|stage| stage.name == target.to_lowercase());
        let numbered = || target.parse().ok().filter(|number| *number <= last);
        named.or_else(numbered).ok_or_else(|| {
            let reason = format!("there is no stage {target:?} to be the target");
            DockerfileError { line: 1, reason }
        })
    }

    /// What variables mean in `FROM`.
    fn globals(&self, scope: &Scope<'_>) -> Result<BTreeMap<String, String>, DockerfileError> {
        let (mut values, mut size) = (BTreeMap::new(), 0);
        let host = crate::oci::Platform::host();
        for (prefix, platform) in [("TARGET", scope.platform), ("BUILD", &host)] {
            let variant = platform.variant.clone().unwrap_or_default();
            values.insert(format!("{prefix}PLATFORM"), platform.to_string());
            values.insert(format!("{prefix}OS"), platform.os.clone());
            values.insert(format!("{prefix}ARCH"), platform.architecture.clone());
            values.insert(format!("{prefix}VARIANT"), variant);
        }
        for argument in &self.arguments {
            for word in argument.rest.split_whitespace() {
                let (name, default) =
                    word.split_once('=').map_or((word, None), |(n, v)| (n, Some(v)));
                let value = match (scope.arguments.get(name), default) {
                    (Some(given), _) => given.clone(),
                    (None, Some(default)) => {
                        let plain = default.trim_matches(['"', '\'']);
                        expand(plain, &values, argument.line)?
                    }
                    (None, None) => continue,
                };
                size += value.len();
                if size > MAX_VALUES {
                    let reason = format!(
                        "the values of the ARGs before FROM are longer than {MAX_VALUES} bytes"
                    );
                    return Err(DockerfileError { line: argument.line, reason });
                }
                values.insert(name.to_owned(), value);
            }
        }
        Ok(values)
    }
}

/// What a `FROM` says.
struct From {
    image: String,
    platform: Option<String>,
    name: Option<String>,
}

impl From {
    fn parse(instruction: &Instruction) -> Result<Self, DockerfileError> {
        let wrong =
            |reason: &str| DockerfileError { line: instruction.line, reason: reason.to_owned() };
        let (mut platform, mut words) = (None, Vec::new());
        for word in instruction.rest.split_whitespace() {
            match word.strip_prefix("--platform=") {
                Some(named) if words.is_empty() => platform = Some(named.to_owned()),
                _ => words.push(word),
            }
        }
        match words[..] {
            [] => Err(wrong("FROM needs an image")),
            [image] => Ok(Self { image: image.to_owned(), platform, name: None }),
            [image, word, name] if word.eq_ignore_ascii_case("as") => {
                Ok(Self { image: image.to_owned(), platform, name: Some(name.to_owned()) })
            }
            _ => Err(wrong("FROM takes an image, and AS with a name")),
        }
    }
}

/// What `COPY --from` and `RUN --mount=from=` name.
fn sources(instruction: &Instruction) -> Vec<String> {
    let flags = instruction.rest.split_whitespace().take_while(|word| word.starts_with("--"));
    let named = flags.filter_map(|flag| match instruction.keyword.as_str() {
        "COPY" | "ADD" => flag.strip_prefix("--from="),
        "RUN" => {
            let mut options = flag.strip_prefix("--mount=")?.split(',');
            options.find_map(|option| option.strip_prefix("from="))
        }
        _ => None,
    });
    named
        .map(|name| name.trim_matches(['"', '\'']).to_owned())
        .filter(|name| !name.is_empty())
        .collect()
}

#[cfg(test)]
mod tests;
