//! The root of a sandbox: the system's programs and the little of its configuration that they need, the
//! harmless devices, a `/proc` of its own, and what the spec names.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{SandboxSpec, network};
use crate::build::SandboxError;
use crate::build::network::Network;

/// Programs and libraries.
const SYSTEM: [&str; 8] =
    ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store"];
/// What programs look up: no passwords, and nothing of the machine's own.
const CONFIGURATION: [&str; 18] = [
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/group",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/pki",
    "/etc/protocols",
    "/etc/resolv.conf",
    "/etc/services",
    "/etc/ssl",
    "/etc/subuid",
];
/// Devices that tell and change nothing.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];
/// Of the configuration as well: a filtered network has its own.
const NAME_SERVERS: &str = "/etc/resolv.conf";
/// What changes the machine when it is written, for whoever is root.
const KERNEL: [&str; 5] =
    ["/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs"];
const NONE: Option<&str> = None;

/// Makes the root and enters it. The process must be the first of its namespaces.
pub(super) fn enter(spec: &SandboxSpec) -> Result<(), SandboxError> {
    // What is mounted from here on, nobody else is to see.
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
        .map_err(SandboxError::of("make mounts private"))?;
    let root = Root { path: spec.root.clone() };
    root.mount("tmpfs", "/", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=755"))?;
    for path in SYSTEM.iter().chain(&CONFIGURATION) {
        if *path == NAME_SERVERS && spec.network == Network::Filtered {
            root.write(path, &format!("nameserver {}\n", network::NAME_SERVER))?;
        } else {
            root.bind(Path::new(path), Write::No)?;
        }
    }
    // First, as the others may lie below.
    for path in ["/tmp", "/var/tmp"] {
        root.bind_at(&spec.temporary, Path::new(path), Write::Yes)?;
    }
    for path in &spec.read_only {
        root.bind(path, Write::No)?;
    }
    for path in &spec.writable {
        root.bind(path, Write::Yes)?;
    }
    root.make_directory(Path::new("/root"))?;
    root.make_directory(Path::new("/run"))?;
    root.devices()?;
    root.mount("proc", "/proc", MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC, None)?;
    for path in KERNEL {
        root.protect(path)?;
    }
    // Of its own: it shows the network's devices, and those that there are in here.
    let hidden = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    root.mount("sysfs", "/sys", hidden, None)?;
    if spec.makes_cgroups {
        root.bind_all("/sys/fs/cgroup")?;
    }
    let aside = root.make_directory(Path::new("/.old"))?;
    nix::unistd::pivot_root(&spec.root, &aside).map_err(SandboxError::of("change the root"))?;
    std::env::set_current_dir("/").map_err(SandboxError::of("enter the root"))?;
    umount2("/.old", MntFlags::MNT_DETACH).map_err(SandboxError::of("leave the old root"))?;
    fs::remove_dir("/.old").map_err(SandboxError::of("leave the old root"))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Write {
    Yes,
    No,
}

struct Root {
    path: PathBuf,
}

impl Root {
    /// Where a path of the sandbox is until its root is entered.
    fn inside(&self, path: &Path) -> PathBuf {
        self.path.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn make_directory(&self, path: &Path) -> Result<PathBuf, SandboxError> {
        let inside = self.inside(path);
        fs::create_dir_all(&inside)
            .map_err(SandboxError::of(&format!("make {}", path.display())))?;
        Ok(inside)
    }

    /// The path as it is here; nothing, if it isn't. A link stays one, and what it leads to is there if
    /// it lies in what is bound as well.
    fn bind(&self, path: &Path, write: Write) -> Result<(), SandboxError> {
        match fs::symlink_metadata(path) {
            // Those of the configuration lead to where nothing is bound.
            Ok(found) if found.is_symlink() && !path.starts_with("/etc") => {
                let target = fs::read_link(path)
                    .map_err(SandboxError::of(&format!("read {}", path.display())))?;
                self.make_parent(path)?;
                symlink(target, self.inside(path))
                    .map_err(SandboxError::of(&format!("link {}", path.display())))
            }
            Ok(_) => self.bind_at(path, path, write),
            Err(_) => Ok(()),
        }
    }

    fn make_parent(&self, path: &Path) -> Result<(), SandboxError> {
        path.parent().map_or(Ok(()), |parent| self.make_directory(parent).map(drop))
    }

    /// What is at `from` here, at `path` there.
    fn bind_at(&self, from: &Path, path: &Path, write: Write) -> Result<(), SandboxError> {
        let what = format!("bind {}", from.display());
        // A link that leads nowhere is as good as nothing.
        let Ok(found) = fs::metadata(from) else { return Ok(()) };
        let inside = if found.is_dir() {
            self.make_directory(path)?
        } else {
            self.make_parent(path)?;
            let inside = self.inside(path);
            fs::File::create(&inside).map_err(SandboxError::of(&what))?;
            inside
        };
        mount(Some(from), &inside, NONE, MsFlags::MS_BIND, NONE)
            .map_err(SandboxError::of(&what))?;
        let device = found.file_type().is_char_device();
        if write == Write::No && !device {
            let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            let flags = flags | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
            mount(NONE, &inside, NONE, flags, NONE).map_err(SandboxError::of(&what))?;
        }
        Ok(())
    }

    /// A file of the sandbox's own.
    fn write(&self, path: &str, text: &str) -> Result<(), SandboxError> {
        let path = Path::new(path);
        self.make_parent(path)?;
        fs::write(self.inside(path), text)
            .map_err(SandboxError::of(&format!("write {}", path.display())))
    }

    /// Nobody writes there any more.
    fn protect(&self, path: &str) -> Result<(), SandboxError> {
        let inside = self.inside(Path::new(path));
        // Not all kernels have all of them.
        if !inside.exists() {
            return Ok(());
        }
        let what = format!("protect {path}");
        mount(Some(&inside), &inside, NONE, MsFlags::MS_BIND, NONE)
            .map_err(SandboxError::of(&what))?;
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        let flags = flags | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(NONE, &inside, NONE, flags, NONE).map_err(SandboxError::of(&what))
    }

    fn bind_all(&self, path: &str) -> Result<(), SandboxError> {
        let inside = self.inside(Path::new(path));
        mount(Some(path), &inside, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)
            .map_err(SandboxError::of(&format!("bind {path}")))
    }

    fn mount(
        &self,
        kind: &str,
        path: &str,
        flags: MsFlags,
        data: Option<&str>,
    ) -> Result<(), SandboxError> {
        let inside = self.make_directory(Path::new(path))?;
        mount(Some(kind), &inside, Some(kind), flags, data)
            .map_err(SandboxError::of(&format!("mount {kind} at {path}")))
    }

    fn devices(&self) -> Result<(), SandboxError> {
        self.mount("tmpfs", "/dev", MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC, Some("mode=755"))?;
        for name in DEVICES {
            let path = Path::new("/dev").join(name);
            self.bind_at(&path, &path, Write::Yes)?;
        }
        self.mount(
            "devpts",
            "/dev/pts",
            MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
            Some("newinstance,ptmxmode=0666,mode=620"),
        )?;
        self.mount("tmpfs", "/dev/shm", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, None)?;
        self.mount("mqueue", "/dev/mqueue", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, None)?;
        for (name, target) in DEVICE_LINKS {
            let path = self.inside(Path::new("/dev")).join(name);
            symlink(target, path).map_err(SandboxError::of(&format!("link /dev/{name}")))?;
        }
        Ok(())
    }
}
