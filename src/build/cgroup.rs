//! What a build may take of the machine, by a cgroup of its own: version 2 where it is there, else the
//! controllers of version 1 (kernel documentation, "Control Group v2" and "cgroup-v1").

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use uuid::Uuid;

use super::BuildError;
use crate::local::io_error;

const ROOT: &str = "/sys/fs/cgroup";
/// The directory of all builds, in each hierarchy.
const OURS: &str = "clipwright-builds";
/// Microseconds in which the share of the processors is counted.
const PERIOD: u64 = 100_000;

/// A cgroup that is not older may belong to a build that begins.
const FRESH: Duration = Duration::from_mins(1);

/// What a build may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Resources {
    /// MiB of memory; any when absent.
    pub memory_mib: Option<u64>,
    /// Processes and threads; any number when absent.
    pub processes: Option<u64>,
    /// Thousandths of a processor; all of them when absent.
    pub cpu_millis: Option<u64>,
    /// MiB on disk, which is measured (`disk`); any number when absent.
    pub disk_mib: Option<u64>,
}

impl Resources {
    fn is_limited(&self) -> bool {
        *self != Self::default()
    }

    /// Why these limits can't be kept here; `None` if they can.
    pub fn obstacle(&self) -> Option<String> {
        if !self.is_limited() {
            return None;
        }
        sweep();
        match Cgroup::make(self) {
            Ok(_) => None,
            Err(error) => Some(format!("builds are limited by settings, and {error}")),
        }
    }

    /// What to write where: controller, file of version 2 and its text, file of version 1 and its text.
    fn rules(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        if let Some(mib) = self.memory_mib {
            let bytes = (mib << 20).to_string();
            rules.push(Rule::new(
                "memory",
                ("memory.max", &bytes),
                ("memory.limit_in_bytes", &bytes),
            ));
            rules.push(
                Rule::new("memory", ("memory.swap.max", "0"), ("memory.swappiness", "0"))
                    .if_possible(),
            );
        }
        // Whose disk is measured, whose processes must be known.
        if self.processes.is_some() || self.disk_mib.is_some() {
            let most = self.processes.map_or_else(|| "max".to_owned(), |most| most.to_string());
            rules.push(Rule::new("pids", ("pids.max", &most), ("pids.max", &most)));
        }
        if let Some(millis) = self.cpu_millis {
            let quota = (millis * PERIOD / 1000).to_string();
            let max = format!("{quota} {PERIOD}");
            rules.push(Rule::new("cpu", ("cpu.max", &max), ("cpu.cfs_quota_us", &quota)));
        }
        rules
    }
}

struct Rule {
    controller: &'static str,
    unified: (&'static str, String),
    legacy: (&'static str, String),
    must: bool,
}

impl Rule {
    fn new(
        controller: &'static str,
        (unified, text): (&'static str, &str),
        (legacy, legacy_text): (&'static str, &str),
    ) -> Self {
        let (unified, legacy) = ((unified, text.to_owned()), (legacy, legacy_text.to_owned()));
        Self { controller, unified, legacy, must: true }
    }

    /// Not all kernels have it.
    fn if_possible(self) -> Self {
        Self { must: false, ..self }
    }
}

/// The cgroup of one build; removed when dropped, with whatever still runs in it.
#[derive(Debug)]
pub(super) struct Cgroup {
    /// Each locked: whoever made it lives.
    directories: Vec<(PathBuf, File)>,
}

impl Cgroup {
    /// Makes one; `None` if nothing is limited.
    pub(super) fn make(resources: &Resources) -> Result<Option<Self>, BuildError> {
        if !resources.is_limited() {
            return Ok(None);
        }
        let name = format!("{}-{}", std::process::id(), Uuid::now_v7().simple());
        let mut made = Self { directories: Vec::new() };
        let unified = Path::new(ROOT).join("cgroup.controllers").exists();
        if unified {
            enable(resources)?;
        }
        for rule in resources.rules() {
            let parent = if unified {
                Path::new(ROOT).to_owned()
            } else {
                Path::new(ROOT).join(rule.controller)
            };
            let directory = parent.join(OURS).join(&name);
            if !made.directories.iter().any(|(known, _)| *known == directory) {
                fs::create_dir_all(&directory)
                    .map_err(io_error(format!("can't make the cgroup {}", directory.display())))?;
                let lock = File::open(&directory).and_then(|file| file.lock().map(|()| file));
                let failed = io_error(format!("can't lock the cgroup {}", directory.display()));
                made.directories.push((directory.clone(), lock.map_err(failed)?));
            }
            let (file, text) = if unified { rule.unified } else { rule.legacy };
            let file = directory.join(file);
            let written = fs::write(&file, text);
            if rule.must {
                written.map_err(io_error(format!("can't write {}", file.display())))?;
            }
        }
        Ok(Some(made))
    }

    /// What a process is written into that is to be in it.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.directories.iter().map(|(directory, _)| directory.join("cgroup.procs")).collect()
    }

    /// Whether something in it was killed because memory ran out.
    pub(super) fn ran_out_of_memory(&self) -> bool {
        let files = self.directories.iter().flat_map(|(directory, _)| {
            ["memory.events", "memory.oom_control"].map(|file| directory.join(file))
        });
        let killed = |text: String| {
            let mut counts = text.lines().filter_map(|line| line.strip_prefix("oom_kill "));
            counts.any(|count| count.trim() != "0")
        };
        files.filter_map(|file| fs::read_to_string(file).ok()).any(killed)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for (directory, _) in &self.directories {
            let _ = fs::write(directory.join("cgroup.kill"), "1");
            if let Err(error) = remove(directory) {
                tracing::warn!(cgroup = %directory.display(), %error, "can't remove the cgroup of a build");
            }
        }
    }
}

/// Removes what services left that were killed. A cgroup that was made a moment ago may not be locked yet.
fn sweep() {
    let hierarchies = fs::read_dir(ROOT).into_iter().flatten().flatten().map(|entry| entry.path());
    let ours = hierarchies.chain([PathBuf::from(ROOT)]).map(|hierarchy| hierarchy.join(OURS));
    for entry in ours.flat_map(|ours| fs::read_dir(ours).into_iter().flatten().flatten()) {
        let is_old = || Some(entry.metadata().ok()?.modified().ok()?.elapsed().ok()? > FRESH);
        let is_free = || Some(File::open(entry.path()).ok()?.try_lock().is_ok());
        if is_old() == Some(true) && is_free() == Some(true) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

fn remove(directory: &Path) -> std::io::Result<()> {
    // What was killed a moment ago may not be gone yet.
    for _ in 0..100 {
        match fs::remove_dir(directory) {
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            removed => return removed,
        }
    }
    fs::remove_dir(directory)
}

/// Lets the cgroups below have the controllers. The root of a cgroup namespace may hold processes of its
/// own, this one among them: then the kernel refuses it.
fn enable(resources: &Resources) -> Result<(), BuildError> {
    let ours = Path::new(ROOT).join(OURS);
    fs::create_dir_all(&ours)
        .map_err(io_error(format!("can't make the cgroup {}", ours.display())))?;
    let mut controllers: Vec<_> = resources.rules().iter().map(|rule| rule.controller).collect();
    controllers.dedup();
    for parent in [Path::new(ROOT), &ours] {
        let file = parent.join("cgroup.subtree_control");
        let present = fs::read_to_string(&file).unwrap_or_default();
        for controller in &controllers {
            if !present.split_whitespace().any(|found| found == *controller) {
                let what = format!(
                    "can't give the {controller} controller to builds in {}",
                    file.display()
                );
                fs::write(&file, format!("+{controller}")).map_err(io_error(what))?;
            }
        }
    }
    Ok(())
}
