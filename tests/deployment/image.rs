//! The image of `docker/Dockerfile`, built around the program of this build.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::upstream::{run, skip};

/// buildah with a storage of its own.
fn buildah(directory: &Path) -> Command {
    let mut command = Command::new("buildah");
    command.arg("--root").arg(directory.join("root")).arg("--runroot").arg(directory.join("run"));
    command.env("BUILDAH_ISOLATION", "chroot");
    command
}

/// A base image without a network: busybox, what the program is linked to, and an `apt-get` that finds all there already.
fn base(directory: &Path) -> String {
    let root = directory.join("base");
    for path in ["bin", "tmp", "etc", "usr/bin", "usr/sbin", "var/lib", "usr/local/bin"] {
        std::fs::create_dir_all(root.join(path)).unwrap();
    }
    let busybox =
        ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    std::fs::copy(busybox.unwrap(), root.join("bin/busybox")).unwrap();
    for name in ["sh", "echo", "mkdir", "chown", "rm", "id"] {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    std::fs::write(root.join("usr/bin/apt-get"), "#!/bin/sh\nexit 0\n").unwrap();
    std::fs::set_permissions(root.join("usr/bin/apt-get"), Permissions::from_mode(0o755)).unwrap();
    for name in ["etc/passwd", "etc/group"] {
        std::fs::write(root.join(name), "root:x:0:0::/root:/bin/sh\n").unwrap();
    }
    let linked = run(Command::new("ldd").arg(env!("CARGO_BIN_EXE_clipwright")));
    for library in
        String::from_utf8(linked).unwrap().split_whitespace().filter(|word| word.starts_with('/'))
    {
        let to = root.join(library.trim_start_matches('/'));
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(library, to).unwrap();
    }
    std::fs::write(directory.join("Base"), "FROM scratch\nCOPY . /\n").unwrap();
    let built = buildah(directory)
        .args(["bud", "--quiet", "--tag", "localhost/base:test", "--file"])
        .arg(directory.join("Base"))
        .arg(&root)
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    "localhost/base:test".to_owned()
}

#[test]
fn the_image_runs_the_program_as_nobody_special() {
    if !nix::unistd::geteuid().is_root() {
        return skip("not root, which this way of building takes");
    }
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let base = base(dir.path());
    let context = dir.path().join("context");
    std::fs::create_dir(&context).unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_clipwright"), context.join("clipwright")).unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/Dockerfile");
    let built = buildah(dir.path())
        .args(["bud", "--quiet", "--target", "slim", "--tag", "localhost/clipwright:test"])
        .args(["--build-arg", "BINARY=given", "--build-arg", "PROGRAM=clipwright"])
        .args(["--build-arg", &format!("BASE_IMAGE={base}"), "--file"])
        .arg(&file)
        .arg(&context)
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));

    let config =
        run(buildah(dir.path()).args(["inspect", "--type", "image", "localhost/clipwright:test"]));
    let config: Value = serde_json::from_slice(&config).unwrap();
    let config = &config["OCIv1"]["config"];
    assert_eq!(config["User"], "10001:10001");
    assert_eq!(config["Entrypoint"][0], "/usr/local/bin/clipwright");
    let container = run(buildah(dir.path()).args(["from", "localhost/clipwright:test"]));
    let container = String::from_utf8(container).unwrap();
    let inside = |command: &[&str]| {
        let output =
            buildah(dir.path()).args(["run", container.trim(), "--"]).args(command).output();
        let output = output.unwrap();
        assert!(
            output.status.success(),
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(inside(&["id", "-u"]).trim(), "10001");
    let version = inside(&["/usr/local/bin/clipwright", "--version"]);
    assert_eq!(version.trim(), format!("clipwright {}", env!("CARGO_PKG_VERSION")));
    // What is kept on the machine is the user's to write.
    inside(&["mkdir", "/var/lib/clipwright/x"]);
}
