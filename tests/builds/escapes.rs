//! What has led out of builders before, and what might: whether the builder refuses it or not, nothing of
//! the machine is read or changed. Advisories are those of buildah and its libraries.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::harness::{Yard, build, context};
use crate::support::layout::Blob;

/// What stands in the file that nobody may read.
const SONG: &str = "the-canary-sings";

/// A directory of the machine with a file in it, which builds try to reach.
struct Canary {
    directory: PathBuf,
}

impl Canary {
    fn of(yard: &Yard) -> Self {
        let directory = yard.service.data().join("canary");
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(directory.join("bird"), SONG).unwrap();
        Self { directory }
    }

    fn shown(&self) -> String {
        self.directory.display().to_string()
    }

    /// Neither is the file another, nor is anything beside it.
    fn assert_untouched(&self, after: &str) {
        let names: Vec<_> = std::fs::read_dir(&self.directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(names, ["bird"], "{after}");
        assert_eq!(std::fs::read_to_string(self.directory.join("bird")).unwrap(), SONG, "{after}");
    }
}

/// A build that tries to get out.
#[derive(Default)]
struct Escape {
    name: &'static str,
    /// On top of the base. What it gets hold of, it prints.
    dockerfile: String,
    context: Option<Vec<u8>>,
    /// The Dockerfile is this one of the context, instead.
    dockerfile_path: Option<&'static str>,
}

/// Sends them one after the other, and looks in job, log and image whether one has seen the canary.
async fn try_all(yard: &Yard, canary: &Canary, escapes: Vec<Escape>) -> Vec<(Value, Vec<Value>)> {
    let mut tried = Vec::new();
    for (number, escape) in escapes.into_iter().enumerate() {
        let Escape { name, dockerfile, context, dockerfile_path } = escape;
        let mut body = build(&format!("e5ca9e000000{number:04x}"), &yard.on_base(&dockerfile));
        let mut refused = None;
        if let Some(context) = context {
            let (status, kept) = yard.service.send_bytes("/v1/contexts", context).await;
            assert!(matches!(status, 201 | 422), "{name}: {kept}");
            body["context"] = kept["digest"].clone();
            refused = (status == 422).then_some(kept);
        }
        if let Some(path) = dockerfile_path {
            body["dockerfile"] = Value::Null;
            body["dockerfile_path"] = json!(path);
        }
        let (job, log) = match refused {
            Some(problem) => (problem, Vec::new()),
            None => {
                let job = yard.service.run(body).await;
                let log = yard.log(job["id"].as_str().unwrap()).await;
                (job, log)
            }
        };
        println!("{name}: {} {}: {:#?}", job["state"], job["error"]["message"], texts(&log));
        let said = json!([job, log]).to_string();
        assert!(!said.contains(SONG), "{name}: {said}");
        canary.assert_untouched(name);
        tried.push((job, log));
    }
    assert_eq!(yard.left(), Vec::<String>::new());
    tried
}

fn texts(log: &[Value]) -> Vec<&str> {
    log.iter().filter_map(|line| line["text"].as_str()).collect()
}

fn on_stage(first: &str, second: &str, base: &str) -> String {
    format!("{first}\nFROM {base}\n{second}\n")
}

/// The tests see what they look for when it is there to be seen.
#[tokio::test]
async fn a_canary_that_is_in_the_context_is_heard() {
    let yard = Yard::start().await;
    let (_, kept) = yard.service.send_bytes("/v1/contexts", context(&[("bird", SONG)])).await;
    let mut body = build("e5ca9e0000010000", &yard.on_base("COPY bird /bird\nRUN cat /bird\n"));
    body["context"] = kept["digest"].clone();
    let job = yard.service.run(body).await;
    assert_eq!(job["state"], "succeeded", "{job:#}");
    let log = yard.log(job["id"].as_str().unwrap()).await;
    assert!(texts(&log).iter().any(|text| text.contains(SONG)), "{log:#?}");
}

#[tokio::test]
async fn mounts_of_a_step_lead_nowhere() {
    let yard = Yard::start().await;
    let canary = Canary::of(&yard);
    let (data, base) = (canary.shown(), &yard.base);
    let links = format!("RUN ln -s / /link; ln -s {data} /data; mkdir /d; ln -s {data} /d/sub");
    let up = "../".repeat(20);
    let escapes = [
        (
            "CVE-2024-1753: the source is a link to the root",
            on_stage(
                &links,
                &format!(
                    "RUN --mount=type=bind,from=0,source=/link,target=/mnt,rw \
                     cat /mnt{data}/bird; echo x > /mnt{data}/bird; echo x > /mnt{data}/new; true"
                ),
                base,
            ),
        ),
        (
            "CVE-2024-1753: the source is a link to the directory",
            on_stage(
                &links,
                "RUN --mount=type=bind,from=0,source=/data,target=/mnt,rw cat /mnt/bird; echo x > /mnt/new; true",
                base,
            ),
        ),
        (
            "CVE-2024-11218: a link below the source",
            on_stage(
                &links,
                "RUN --mount=type=bind,from=0,source=/d/sub/,target=/mnt,rw cat /mnt/bird; echo x > /mnt/new; true",
                base,
            ),
        ),
        (
            "CVE-2024-11218: the source becomes a link while it is used",
            on_stage(
                "RUN mkdir -p /swap/in",
                &format!(
                    "RUN --mount=type=bind,from=0,source=/swap,target=/mnt,rw rm -r /mnt/in; ln -s {data} /mnt/in\n\
                     RUN --mount=type=bind,from=0,source=/swap/in,target=/mnt,rw cat /mnt/bird; echo x > /mnt/new; true"
                ),
                base,
            ),
        ),
        (
            "CVE-2024-9407: a propagation that is a path",
            format!(
                "RUN --mount=type=bind,source=/,target=/mnt,bind-propagation=/{up}{data} cat /mnt/bird; true"
            ),
        ),
        (
            "CVE-2024-9675: the id of a cache goes up",
            format!(
                "RUN --mount=type=cache,id={up}{data},target=/c cat /c/bird; echo x > /c/new; true"
            ),
        ),
        (
            "the source of a cache goes up",
            format!(
                "RUN --mount=type=cache,id=a,source={up}{data},target=/c cat /c/bird; echo x > /c/new; true"
            ),
        ),
        (
            "the target is a link",
            format!(
                "RUN ln -s {data} /t\nRUN --mount=type=cache,target=/t echo x > /t/new; cat /t/bird; true\n\
                 RUN --mount=type=tmpfs,target=/t/below echo x > /t/below/new; true"
            ),
        ),
        (
            "the source in the context goes up",
            format!(
                "RUN --mount=type=bind,source={up}{data},target=/mnt,rw cat /mnt/bird; echo x > /mnt/new; true"
            ),
        ),
        (
            "a secret that is a file of the machine",
            format!("RUN --mount=type=secret,id=s,src={data}/bird,target=/s cat /s; true"),
        ),
    ];
    let escapes =
        escapes.map(|(name, dockerfile)| Escape { name, dockerfile, ..Escape::default() });
    try_all(&yard, &canary, escapes.into()).await;
}

#[tokio::test]
async fn files_of_images_lead_nowhere() {
    let yard = Yard::start().await;
    let canary = Canary::of(&yard);
    let (data, base) = (canary.shown(), &yard.base);
    let links = format!("RUN ln -s {data} /data; ln -s {data}/bird /bird");
    let escapes = [
        (
            "CVE-2024-9676: the users' file is a link",
            format!(
                "RUN mkdir -p /etc; ln -sf {data}/bird /etc/passwd; ln -sf {data}/bird /etc/group\n\
                 RUN cat /etc/passwd; id; true\nUSER nobody\nRUN id"
            ),
        ),
        (
            "what is written beside it is a link",
            format!(
                "RUN rm -rf /etc; ln -s {data} /etc\nRUN echo x > /etc/new; echo x > /etc/resolv.conf; true\nWORKDIR /etc/below"
            ),
        ),
        (
            "COPY --from follows a link",
            on_stage(&links, "COPY --from=0 /data/bird /a\nRUN cat /a; true", base),
        ),
        (
            "COPY --from takes what a link leads to",
            on_stage(&links, "COPY --from=0 /bird /a\nRUN cat /a; true", base),
        ),
        (
            "COPY to where a link leads",
            on_stage(
                "RUN echo x > /new",
                &format!("RUN ln -s {data} /to\nCOPY --from=0 /new /to/new"),
                base,
            ),
        ),
        (
            "the working directory is a link",
            format!("RUN ln -s {data} /w\nWORKDIR /w/below\nRUN echo x > new; cat ../bird; true"),
        ),
        ("ADD takes a file of the machine", format!("ADD file://{data}/bird /a\nRUN cat /a; true")),
        (
            "VOLUME is a link",
            format!("RUN ln -s {data} /v\nVOLUME /v\nRUN cat /v/bird; echo x > /v/new; true"),
        ),
    ];
    let escapes =
        escapes.map(|(name, dockerfile)| Escape { name, dockerfile, ..Escape::default() });
    try_all(&yard, &canary, escapes.into()).await;
}

/// One entry of a tar, with a name that the library would refuse to write.
fn entry(
    tar: &mut tar::Builder<Vec<u8>>,
    name: &str,
    kind: tar::EntryType,
    link: &str,
    content: &str,
) {
    let mut header = tar::Header::new_ustar();
    let raw = header.as_mut_bytes();
    raw[..name.len()].copy_from_slice(name.as_bytes());
    raw[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_mode(0o666);
    if kind.is_block_special() || kind.is_character_special() {
        header.set_device_major(1).unwrap();
        header.set_device_minor(1).unwrap();
    }
    header.set_cksum();
    tar.append(&header, content.as_bytes()).unwrap();
}

fn tar_of(entries: &[(&str, tar::EntryType, &str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, kind, link, content) in entries {
        entry(&mut tar, name, *kind, link, content);
    }
    tar.into_inner().unwrap()
}

#[tokio::test]
async fn contexts_lead_nowhere() {
    use tar::EntryType::{Block, Char, Link, Regular, Symlink};
    let yard = Yard::start().await;
    let canary = Canary::of(&yard);
    let data = canary.shown();
    let (bird, new) = (format!("{data}/bird"), format!("{data}/new"));
    let up = format!("{}{}", "../".repeat(12), &bird[1..]);
    assert!(up.len() < 100 && new.len() < 100, "they fit into a header: {up}");
    let show = "COPY . /c\nRUN cat /c/bird /c/below/*; true".to_owned();
    let with = |name, entries: &[(&str, tar::EntryType, &str, &str)], dockerfile: &str| Escape {
        name,
        dockerfile: dockerfile.to_owned(),
        context: Some(tar_of(entries)),
        dockerfile_path: None,
    };
    // In a file that the builder unpacks.
    let packed = |entries: &[(&str, tar::EntryType, &str, &str)]| {
        let inner = tar_of(entries);
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(inner.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, "in.tar", &inner[..]).unwrap();
        Some(tar.into_inner().unwrap())
    };
    let add = "ADD in.tar /x/\nRUN ls -l /x; cat /x/bird /x/d/bird; dd if=/x/dev bs=16 count=1 && echo opened; true".to_owned();
    let mut escapes = vec![
        with("an absolute name", &[(&new, Regular, "", "x")], &show),
        with("a name that goes up", &[(&up.replace("bird", "new"), Regular, "", "x")], &show),
        with("a hard link outside", &[("bird", Link, &bird, "")], &show),
        with("a hard link that goes up", &[("bird", Link, &up, "")], &show),
        with(
            "an entry below a link",
            &[("d", Symlink, &data, ""), ("d/new", Regular, "", "x")],
            &show,
        ),
        with(
            "a link that is copied",
            &[("bird", Symlink, &bird, "")],
            "COPY bird /c/bird\nRUN cat /c/bird; true",
        ),
        with(
            "a link to a directory",
            &[("d", Symlink, &data, "")],
            "COPY d/bird /c/bird\nRUN cat /c/bird; true",
        ),
        with(
            "a link that goes up",
            &[("bird", Symlink, &up, "")],
            "COPY bird /c/bird\nRUN cat /c/bird; true",
        ),
        with("a device", &[("dev", Char, "", "")], &show),
        with(
            "a list of what is ignored that is a link",
            &[(".dockerignore", Symlink, &bird, ""), ("a", Regular, "", "x")],
            &show,
        ),
    ];
    for (name, link) in [("a Dockerfile that is a link", &bird), ("a Dockerfile that goes up", &up)]
    {
        escapes.push(Escape {
            dockerfile_path: Some("Dockerfile"),
            ..with(name, &[("Dockerfile", Symlink, link, "")], "")
        });
    }
    for (name, entries) in [
        (
            "ADD of a tar with a link",
            vec![("d", Symlink, data.as_str(), ""), ("d/new", Regular, "", "x")],
        ),
        (
            "ADD of a tar that goes up",
            vec![("../../../../new", Regular, "", "x"), (new.as_str(), Regular, "", "x")],
        ),
        ("ADD of a tar with a hard link", vec![("bird", Link, bird.as_str(), "")]),
        ("ADD of a tar with a hard link that goes up", vec![("bird", Link, up.as_str(), "")]),
        ("ADD of a tar with a device", vec![("dev", Char, "", "")]),
        ("ADD of a tar with a disk", vec![("dev", Block, "", "")]),
    ] {
        let (dockerfile, context) = (add.clone(), packed(&entries));
        escapes.push(Escape { name, dockerfile, context, dockerfile_path: None });
    }
    for (job, log) in try_all(&yard, &canary, escapes).await {
        assert!(!texts(&log).contains(&"opened"), "{job:#} {log:#?}");
    }
}

/// Leaves a `chroot`, as whoever may call it can, and shows what is there.
const BREAKOUT: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
int main(int count, char **argument) {
    int out = open("/", O_RDONLY | O_DIRECTORY);
    mkdir("/jail", 0755);
    if (chroot("/jail") || fchdir(out)) { puts("no way out"); return 0; }
    for (int i = 0; i < 64; i++) chdir("..");
    if (chroot(".")) { puts("no way out"); return 0; }
    execl("/bin/sh", "sh", "-c", argument[1], NULL);
    execl("/usr/bin/busybox", "sh", "-c", argument[1], NULL);
    puts("no shell there");
    return 0;
}
"#;

#[tokio::test]
async fn the_kernel_and_its_files_lead_nowhere() {
    let yard = Yard::start().await;
    let canary = Canary::of(&yard);
    let data = canary.shown();
    let core_pattern = || std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let before = core_pattern();

    let breakout = tempfile::tempdir().unwrap();
    let (source, program) = (breakout.path().join("breakout.c"), breakout.path().join("breakout"));
    std::fs::write(&source, BREAKOUT).unwrap();
    compile(&source, &program);
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_path_with_name(&program, "breakout").unwrap();
    let tar = tar.into_inner().unwrap();

    // Each prints what it managed to do.
    let writes = "for f in /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sys/vm/drop_caches \
         /proc/sysrq-trigger /sys/kernel/uevent_helper /sys/power/state; do \
         echo h > $f && echo wrote $f; done; true";
    let others = format!(
        "for p in 1 2 3; do cat /proc/$p/root{data}/bird; ls /proc/$p/root{data}; cat /proc/$p/environ; \
         echo x > /proc/$p/root{data}/new; done; true"
    );
    let devices = "mknod /m c 1 1 && echo made; mknod /b b 7 0 && echo made; dd if=/dev/mem bs=16 count=1 && echo opened; \
         dd if=/dev/loop0 bs=16 count=1 && echo opened; true";
    let mounts = format!(
        "mkdir -p /n; mount -t proc proc /n && echo mounted; mount -t tmpfs tmpfs /n && echo mounted; \
         mount -o bind {data} /n && echo mounted; mount -o remount,rw /proc/sys && echo mounted; \
         unshare -m true && echo unshared; unshare -U true && echo unshared; true"
    );
    let out = format!(
        "cat {data}/bird; ls {data}; echo x > {data}/new; ls /; cat /etc/shadow && echo opened; echo '|/x' > /proc/sys/kernel/core_pattern && echo wrote core_pattern; \
         echo x > /usr/bin/new && echo wrote program; echo x > /etc/passwd && echo wrote users; echo is out"
    );
    let steps = [writes.to_owned(), others, devices.to_owned(), mounts];
    let mut escapes: Vec<Escape> = steps
        .iter()
        .map(|step| Escape {
            name: "a step",
            dockerfile: format!("RUN {step}\n"),
            ..Escape::default()
        })
        .collect();
    escapes.push(Escape {
        name: "out of the chroot",
        dockerfile: format!("COPY breakout /breakout\nRUN /breakout \"{out}\"\n"),
        context: Some(tar),
        dockerfile_path: None,
    });
    let tried = try_all(&yard, &canary, escapes).await;
    let is_out = |text: &&str| matches!(*text, "is out" | "no way out");
    assert!(texts(&tried.last().unwrap().1).iter().any(is_out), "the program ran: {tried:#?}");
    for (job, log) in tried {
        assert_eq!(job["state"], "succeeded", "{job:#}");
        for text in texts(&log) {
            let managed = ["wrote", "made", "opened", "mounted", "unshared"];
            assert!(!managed.iter().any(|word| text.starts_with(word)), "{text}: {log:#?}");
        }
        assert_eq!(core_pattern(), before);
    }
}

fn compile(source: &Path, program: &Path) {
    let done = Command::new("cc").args(["-static", "-o"]).args([program, source]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// An image that a stranger made, which may hold what no `RUN` could make.
#[tokio::test]
async fn images_of_strangers_lead_nowhere() {
    use crate::support::layout::Layout;
    use tar::EntryType::{Char, Symlink};
    let yard = Yard::start().await;
    let canary = Canary::of(&yard);
    let (data, bird) = (canary.shown(), canary.directory.join("bird").display().to_string());
    let strange = tar_of(&[
        ("etc/passwd", Symlink, &bird, ""),
        ("etc/group", Symlink, &bird, ""),
        ("etc/resolv.conf", Symlink, &bird, ""),
        ("etc/hosts", Symlink, &bird, ""),
        ("run", Symlink, &data, ""),
        ("mem", Char, "", ""),
    ]);
    let layers = [super::harness::busybox(), Blob::gzip(&strange)];
    let image = yard.registry.push(Layout::of(&layers).path(), "strange");
    let dockerfile = format!(
        "FROM {image}\nRUN cat /etc/passwd /etc/resolv.conf /etc/hosts; dd if=/mem bs=16 count=1 && echo opened; true\n\
         RUN --mount=type=secret,id=s cat /run/secrets/s; echo x > /run/new; true\nUSER nobody\nRUN id\n"
    );
    let mut body = build("e5ca9e0000020000", &dockerfile);
    body["secrets"] = json!({"s": "a-secret-of-its-own"});
    let job = yard.service.run(body).await;
    let log = yard.log(job["id"].as_str().unwrap()).await;
    let said = json!([job, log]).to_string();
    assert!(!said.contains(SONG) && !texts(&log).contains(&"opened"), "{said}");
    canary.assert_untouched("a strange image");
    assert_eq!(yard.left(), Vec::<String>::new());
}
