//! What buildah says while it builds: `STEP 2/5: RUN make`, with `[1/2]` before it where there are several
//! stages; `--> Using cache ID` and `--> ID` when a step is done; and, when it fails, `Error: ` and why.
//!
//! What it runs writes into the same pipe and can say all of that too, so that nothing more than what is
//! reported may hang on it; and however often it is said, there are never many more steps than the Dockerfile has.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep_until};

use super::super::BuildError;
use super::super::backend::BuildStep;
use super::super::dockerfile::Dockerfile;
use super::super::log::{LogLine, LogSink, Mask, StepNumber, Stream};
use super::super::process::Lines;
use super::super::sandbox;
use super::super::storage::Site;
use super::said::{is_noise, step_of};
use crate::digest::Digest;

/// So many lines of a failed step's output are told, each cut to [`LINE`] characters.
const TAIL: usize = 5;
const LINE: usize = 300;
/// Steps of a stage beside its instructions, at most: those that the base image's `ONBUILD`s add, and the labels.
const ADDED: u32 = 64;
/// Characters of an instruction that are shown.
const SHOWN: usize = 200;
/// What is silent for longer is said to live.
const SILENCE: Duration = Duration::from_secs(15);

/// Follows the lines of one build.
pub(super) struct Output<'a> {
    dockerfile: &'a Dockerfile,
    mask: Mask,
    log: &'a dyn LogSink,
    site: &'a Site,
    steps: Vec<BuildStep>,
    begun: Instant,
    current: Option<StepNumber>,
    /// Whether the step has said nothing yet: only then may it be one that was found in the cache.
    is_fresh: bool,
    tail: VecDeque<String>,
    /// What the builder says went wrong.
    error: Option<String>,
    heard: Arc<Mutex<Instant>>,
}

/// Says that a build lives that is silent.
pub(super) struct Ticker {
    started: Instant,
    heard: Arc<Mutex<Instant>>,
}

impl Ticker {
    /// Goes on until it is dropped.
    pub(super) async fn tick(&self, log: &dyn LogSink) -> Infallible {
        let mut said = Instant::now();
        loop {
            let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            let due = heard.max(said) + SILENCE;
            if Instant::now() >= due {
                log.silence(self.started.elapsed()).await;
                said = Instant::now();
                continue;
            }
            sleep_until(due).await;
        }
    }
}

impl<'a> Output<'a> {
    pub(super) fn new(
        dockerfile: &'a Dockerfile,
        mask: Mask,
        log: &'a dyn LogSink,
        site: &'a Site,
    ) -> Self {
        Self {
            dockerfile,
            mask,
            log,
            site,
            steps: Vec::new(),
            begun: Instant::now(),
            current: None,
            is_fresh: false,
            tail: VecDeque::new(),
            error: None,
            heard: Arc::new(Mutex::new(Instant::now())),
        }
    }

    pub(super) fn ticker(&self) -> Ticker {
        Ticker { started: self.begun, heard: self.heard.clone() }
    }

    /// What was done.
    pub(super) fn into_steps(mut self) -> Vec<BuildStep> {
        self.close_step();
        self.steps
    }

    /// Where the build is, for people.
    pub(super) fn place(&self) -> Option<String> {
        let step = self.steps.last()?;
        Some(if step.line == 0 {
            step.instruction.clone()
        } else {
            format!("Dockerfile line {}: {}", step.line, step.instruction)
        })
    }

    /// Why the build failed.
    pub(super) fn failure(self, code: i32) -> BuildError {
        if code == sandbox::CODE
            && let Some(reason) =
                self.tail.iter().find_map(|line| line.strip_prefix(sandbox::FAILED))
        {
            return BuildError::Impossible { reason: reason.to_owned() };
        }
        let place = self.place();
        let tail: Vec<String> = self.tail.into();
        let said = self.error.unwrap_or_else(|| format!("buildah ended with code {code}"));
        let of_step = said.strip_prefix("building at STEP ");
        // The instruction, in quotes, is known already.
        let said_of_step =
            of_step.and_then(|rest| rest.split_once("\": ")).map(|(_, reason)| reason);
        match (place, said_of_step) {
            // `while running runtime: ` stands before it when runc runs it.
            (Some(place), Some(reason)) => match reason.rsplit_once("exit status ") {
                Some((_, status)) => {
                    BuildError::Step { place, reason: format!("exited with code {status}"), tail }
                }
                None => BuildError::Step { place, reason: reason.to_owned(), tail: Vec::new() },
            },
            (Some(place), None) => BuildError::Step { place, reason: said, tail: Vec::new() },
            (None, _) => BuildError::Failed { reason: said, tail },
        }
    }

    fn close_step(&mut self) {
        if let Some(step) = self.steps.last_mut() {
            step.seconds = self.begun.elapsed().as_secs_f64();
        }
    }

    /// The step that a line begins, if it comes after the one before and there may be so many.
    fn step_of<'t>(&self, text: &'t str) -> Option<(u32, u32, &'t str)> {
        let (stage, step, instruction) = step_of(text, self.dockerfile.stage_count())?;
        let is_next = self.current.is_none_or(|now| (now.stage, now.step) < (stage, step));
        let most = self.dockerfile.instruction_count(stage) + ADDED;
        (is_next && (1..=most).contains(&step)).then_some((stage, step, instruction))
    }

    fn open_step(&mut self, (stage, step, instruction): (u32, u32, &str)) {
        self.close_step();
        self.is_fresh = true;
        let keyword = instruction.split_whitespace().next().unwrap_or_default();
        let found = self.dockerfile.instruction(stage, step);
        let found = found.filter(|found| found.keyword.eq_ignore_ascii_case(keyword));
        let line = found.map_or(0, |found| u32::try_from(found.line).unwrap_or(u32::MAX));
        // As it was written: the builder names base images by their ids.
        let instruction = found.map_or_else(
            || instruction.to_owned(),
            |found| format!("{} {}", found.keyword, found.rest),
        );
        let instruction: String = instruction.chars().take(SHOWN).collect();
        let instruction = self.mask.apply(instruction);
        self.begun = Instant::now();
        self.current = Some(StepNumber { stage, step, line });
        self.steps.push(BuildStep { stage, step, line, instruction, cached: false, seconds: 0.0 });
        self.tail.clear();
    }
}

#[async_trait]
impl Lines for Output<'_> {
    async fn line(&mut self, stream: Stream, text: String) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        let was_fresh = std::mem::take(&mut self.is_fresh);
        if let Some(step) = self.step_of(&text) {
            self.open_step(step);
        } else if let Some(image) = text.strip_prefix("--> Using cache ").filter(|_| was_fresh) {
            if let Some(step) = self.steps.last_mut() {
                step.cached = true;
            }
            if Digest::from_hex(image).is_ok() {
                self.site.touch(image);
            }
        } else if let Some(said) = text.strip_prefix("Error: ").filter(|_| stream == Stream::Errors)
        {
            // Where it is on this machine is nobody's business.
            let context = self.site.scratch("context").display().to_string();
            self.error = Some(self.mask.apply(said.replace(&context, "CONTEXT")));
        } else if !is_noise(&text) {
            if self.tail.len() == TAIL {
                self.tail.pop_front();
            }
            let cut: String = self.mask.apply(text.clone()).chars().take(LINE).collect();
            self.tail.push_back(cut);
        }
        let text = self.mask.apply(text);
        self.log.write(LogLine { step: self.current, stream, text }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Silence;

    #[async_trait]
    impl LogSink for Silence {
        async fn write(&self, _: LogLine) {}
        async fn silence(&self, _: Duration) {}
    }

    #[tokio::test]
    async fn a_program_that_speaks_like_the_builder_adds_no_steps_without_end() {
        use super::super::super::dockerfile::Features;
        let dir = tempfile::tempdir().unwrap();
        let site = Site::open(&dir.path().join("storage"), dir.path()).await.unwrap();
        let text = "FROM a\nRUN x\nFROM b\nRUN y\n";
        let dockerfile = Dockerfile::parse(text, Features { heredocs: false }).unwrap();
        let mut output = Output::new(&dockerfile, Mask::default(), &Silence, &site);
        let used = "0123456789abcdef".repeat(4);
        let mut lines =
            vec!["[1/2] STEP 1/2: FROM a".to_owned(), format!("--> Using cache {used}")];
        lines.push("[1/2] STEP 2/2: RUN x".to_owned());
        for number in 0..1000_u32 {
            lines.push("[1/2] STEP 2/2: RUN x".to_owned());
            lines.push(format!("[1/2] STEP {}/9: RUN x", 60 + number));
            lines.push("hello".to_owned());
            lines.push(format!("--> Using cache {number:064x}"));
        }
        lines.push("[2/2] STEP 1/2: FROM b".to_owned());
        lines.push("--> Using cache ../../../x".to_owned());
        lines.push("[2/2] STEP 2/2: RUN y".to_owned());
        for line in lines {
            output.line(Stream::Output, line).await;
        }
        let remembered: Vec<_> =
            std::fs::read_dir(dir.path().join("storage/used")).unwrap().collect();
        assert_eq!(remembered.len(), 1);
        assert!(site.used_at(&used).is_some());
        let steps = output.into_steps();
        let last = &steps[steps.len() - 1];
        assert_eq!((last.stage, last.step, last.line), (2, 2, 4));
        assert!(steps.len() <= 2 + 64 + 2, "{}", steps.len());
    }
}
