#!/usr/bin/env python3
"""Makes small images by hand: in a second, without root, and as no image builder would.

usage: make_image.py NAME OUTDIR

  odd      everything that is rare in real images: links, modes, names, times, whiteouts
  opaque   a layer that hides the whole root of the one below
  tiny     an ordinary one: busybox, files of this machine's own Debian packages, an application
  fixture  a few plain files in two layers, for the golden files of the tests
  misread  a file at its top that makes workers take it for a v1 archive

OUTDIR becomes an OCI image layout, tag "latest", gzip layers; the same bytes on every run. The tars
are written entry by entry, since the point of most is in their order and headers. `umoci unpack`
takes the images as they are (as root: `odd` has device nodes).
"""

import gzip
import hashlib
import io
import json
import os
import random
import subprocess
import sys
import tarfile

TIME = 1_600_000_000  # of everything that has no reason for another


class Layer:
    """One layer: a tar that grows entry by entry."""

    def __init__(self, tar_format=tarfile.PAX_FORMAT):
        self.buffer = io.BytesIO()
        # Names that aren't UTF-8 come in, and go out, as surrogate escapes.
        self.tar = tarfile.open(
            fileobj=self.buffer, mode="w", format=tar_format, errors="surrogateescape"
        )

    def add(self, name, kind=tarfile.REGTYPE, data=b"", **fields):
        info = tarfile.TarInfo(name)
        info.type = kind
        info.size = len(data)
        info.mtime = TIME
        info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
        for key, value in fields.items():
            setattr(info, key, value)
        self.tar.addfile(info, io.BytesIO(data))

    def directory(self, name, **fields):
        self.add(name + "/", tarfile.DIRTYPE, **fields)

    def symlink(self, name, target, **fields):
        self.add(name, tarfile.SYMTYPE, linkname=target, mode=0o777, **fields)

    def hard_link(self, name, target):
        self.add(name, tarfile.LNKTYPE, linkname=target)

    def whiteout(self, path):
        self.add(path)

    def files_of(self, packages):
        """Every file that dpkg knows of these packages, under its real path, as it is on disk."""
        listed = subprocess.run(
            ["dpkg", "-L", *packages], check=True, capture_output=True, text=True
        ).stdout.split("\n")
        # /bin/cat is /usr/bin/cat where /bin is a symlink.
        paths = {
            os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
            for path in listed
            if path.startswith("/") and path != "/."
        }
        for path in sorted(paths):
            # Excluded by the machine's dpkg settings (as documentation often is), or not for us.
            if os.path.lexists(path) and (os.path.islink(path) or os.access(path, os.R_OK)):
                self.tar.add(path, path.lstrip("/"), recursive=False)

    def done(self):
        self.tar.close()
        return self.buffer.getvalue()


def noise(length, seed):
    """Bytes that compress to about a half."""
    rng = random.Random(seed)
    return bytes(b & 0x0F for b in rng.randbytes(length))


def base():
    layer = Layer()
    layer.directory(".")
    for name in ["etc", "usr", "usr/bin", "usr/lib", "hard", "attr", "names", "time"]:
        layer.directory(name)
    layer.add("etc/os-release", data=b"NAME=odd\nID=odd\n")
    layer.symlink("lib", "usr/lib")
    layer.symlink("bin", "/usr/bin")
    layer.symlink("loop", "loop")
    layer.symlink("dangling", "no/such/file")
    layer.add("usr/lib/large", data=noise(3 << 20, 1))
    layer.add("usr/lib/empty")

    # Hard links: to a file, to a link, to a symlink.
    layer.add("hard/a", data=b"linked\n")
    layer.hard_link("hard/b", "hard/a")
    layer.hard_link("hard/c", "./hard/b")
    layer.symlink("hard/symlink", "a")
    layer.hard_link("hard/symlink-linked", "hard/symlink")

    # Modes, owners, extended attributes, special files.
    layer.add("usr/bin/setuid", data=b"#!/bin/sh\n", mode=0o4755)
    layer.add("usr/bin/setgid", data=b"#!/bin/sh\n", mode=0o2755, gid=42)
    layer.directory("tmp", mode=0o1777)
    layer.add("attr/mode-0", data=b"not for you\n", mode=0)
    layer.add("attr/owned", data=b"theirs\n", uid=1000, gid=1001)
    layer.add("attr/owned-by-large-numbers", data=b"theirs\n", uid=3_000_000, gid=4_000_000)
    # cap_net_raw+ep, as the kernel stores it (revision 2).
    capability = bytes.fromhex("0100000200200000000000000000000000000000").decode("latin-1")
    layer.add(
        "attr/capability",
        data=b"#!/bin/sh\n",
        mode=0o755,
        pax_headers={"SCHILY.xattr.security.capability": capability},
    )
    layer.add("attr/user-attribute", pax_headers={"SCHILY.xattr.user.note": "kept"})
    layer.add("attr/fifo", tarfile.FIFOTYPE)
    layer.add("attr/null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666)
    layer.add("attr/loop0", tarfile.BLKTYPE, devmajor=7, devminor=0, mode=0o660, gid=6)

    # Times.
    layer.add("time/1970", mtime=0)
    layer.add("time/fraction", mtime=1_234_567_890.987654321)
    layer.add("time/2106", mtime=1 << 33)

    # Names: more than the header's 100 and 255 bytes, by PAX.
    layer.add("names/" + "p" * 200, data=b"pax\n")
    deep = "names"
    for _ in range(4):
        deep += "/" + "q" * 90
        layer.directory(deep)
    layer.add(deep + "/file", data=b"pax\n")
    layer.symlink("names/long-target", "t" * 300)
    layer.add("/absolute-name", data=b"inside the root all the same\n")
    layer.add("./names/./with space and \"quotes\"", data=b"clean me\n")

    # Stage for the layers above.
    for name in ["opaque", "opaque/below", "removed", "removed/directory", "becomes-file",
                 "becomes-symlink", "changes-mode"]:
        layer.directory(name)
    for name in ["opaque/old", "opaque/below/old", "removed/file", "removed/kept",
                 "removed/replaced", "removed/directory/file", "becomes-file/child",
                 "becomes-symlink/child", "becomes-directory", "changes-mode/kept"]:
        layer.add(name, data=name.encode())
    layer.add("names/.wh", data=b"not a whiteout\n")
    return layer.done()


def changes():
    layer = Layer(tarfile.GNU_FORMAT)
    # Parents: through a symlink of the layer below; and never mentioned in any layer.
    layer.add("lib/through-symlink", data=b"is in /usr/lib\n")
    layer.add("bin/through-absolute-symlink", data=b"is in /usr/bin\n", mode=0o755)
    layer.add("made/up/file", data=b"nobody made my parents\n")

    # Links to what is in the layer below.
    layer.hard_link("hard/d", "hard/a")
    layer.hard_link("hard/symlink-linked-later", "hard/symlink")

    # Whiteouts count for the layers below, wherever in the layer they stand.
    layer.add("removed/replaced", data=b"new\n")
    layer.whiteout("removed/.wh.replaced")
    layer.whiteout("removed/.wh.file")
    layer.whiteout("removed/.wh.directory")
    layer.add("opaque/new", data=b"new\n")
    layer.whiteout("opaque/.wh..wh..opq")
    layer.directory("opaque/below")

    # One kind of node in the place of another.
    layer.add("becomes-file", data=b"was a directory\n")
    layer.symlink("becomes-symlink", "etc")
    layer.directory("becomes-directory")
    layer.add("becomes-directory/child", data=b"my parent was a file\n")
    layer.directory("changes-mode", mode=0o700, mtime=TIME + 5)

    # Names: GNU's long ones, and bytes that are no UTF-8.
    layer.add("names/" + "g" * 220, data=b"gnu\n")
    layer.symlink("names/long-target-gnu", "u" * 300)
    layer.add(b"names/caf\xe9".decode("utf-8", "surrogateescape"), data=b"latin-1\n")
    return layer.done()


def repeated():
    """Stands in the image twice, with a layer between that takes its file away."""
    layer = Layer()
    layer.directory("repeated")
    layer.add("repeated/file", data=b"twice\n")
    return layer.done()


def between():
    layer = Layer()
    layer.whiteout("repeated/.wh.file")
    # A directory again: its child of the first layer must stay away.
    layer.directory("becomes-file")
    layer.add("becomes-file/other-child", data=b"new\n")
    layer.add("hard/a", data=b"no longer linked\n")
    return layer.done()


def odd():
    twice = repeated()
    return [base(), changes(), twice, between(), twice]


def opaque():
    lower = Layer()
    lower.directory(".")
    lower.directory("gone")
    lower.add("gone/file", data=b"old\n")
    lower.add("replaced", data=b"old\n")
    upper = Layer()
    upper.add("replaced", data=b"new\n")
    upper.whiteout(".wh..wh..opq")
    upper.directory("stays")
    return [lower.done(), upper.done()]


def fixture():
    lower = Layer()
    lower.directory(".")
    lower.directory("etc")
    lower.add("etc/motd", data=b"hello\n", mtime=TIME + 1)
    lower.add("empty")
    lower.add("private", data=b"mine\n", mode=0o600, uid=1000, gid=1000)
    lower.add("removed", data=b"not for long\n")
    upper = Layer()
    upper.whiteout(".wh.removed")
    upper.symlink("link", "etc/motd")
    upper.hard_link("hard-link", "etc/motd")
    upper.add("caf\u00e9", data=b"UTF-8\n")
    return [lower.done(), upper.done()]


def tiny():
    base = Layer()
    base.directory(".")
    for name in ["bin", "etc", "tmp"]:
        base.directory(name, mode=0o1777 if name == "tmp" else 0o755)
    with open("/bin/busybox", "rb") as file:
        base.add("bin/busybox", data=file.read(), mode=0o755)
    for applet in ["sh", "ls", "cat", "sed", "awk", "wget"]:
        base.symlink("bin/" + applet, "busybox")
    base.add("etc/passwd", data=b"root:x:0:0:root:/root:/bin/sh\n")
    base.add("etc/motd", data=b"not yet\n")
    packages = Layer()
    packages.files_of(["base-files", "libc-bin", "perl-base", "coreutils"])
    application = Layer()
    application.directory("app")
    application.add("app/hello.txt", data=b"Hello from a layer.\n")
    # Debian's base-files makes a link of /bin, and its coreutils need a libc that is not there.
    with open("/bin/busybox", "rb") as file:
        application.add("app/busybox", data=file.read(), mode=0o755)
    run = b"#!/app/busybox sh\nexec /app/busybox cat /app/hello.txt\n"
    application.add("app/run", data=run, mode=0o755)
    application.whiteout("etc/.wh.motd")
    return [base.done(), packages.done(), application.done()]


def misread():
    """An image that workers take for a v1 archive: it has a file of that kind at its top."""
    layer = Layer()
    layer.directory(".")
    layer.add("config.json", data=b"{}\n")
    return [layer.done()]


IMAGES = {"odd": odd, "opaque": opaque, "tiny": tiny, "fixture": fixture, "misread": misread}


def write_layout(out, layers):
    blobs = os.path.join(out, "blobs", "sha256")
    os.makedirs(blobs)

    def blob(data, media_type):
        digest = hashlib.sha256(data).hexdigest()
        with open(os.path.join(blobs, digest), "wb") as file:
            file.write(data)
        return {"mediaType": media_type, "digest": "sha256:" + digest, "size": len(data)}

    def document(value, media_type):
        return blob(json.dumps(value, sort_keys=True).encode(), media_type)

    config = document(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": "2020-09-13T12:26:40Z",
            "config": {"Env": ["PATH=/usr/bin"], "Cmd": ["/bin/setuid"], "Labels": {"made": "by hand"}},
            "rootfs": {
                "type": "layers",
                "diff_ids": ["sha256:" + hashlib.sha256(tar).hexdigest() for tar in layers],
            },
        },
        "application/vnd.oci.image.config.v1+json",
    )
    descriptors = [
        blob(gzip.compress(tar, mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip")
        for tar in layers
    ]
    manifest = document(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": descriptors,
        },
        "application/vnd.oci.image.manifest.v1+json",
    )
    manifest["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    with open(os.path.join(out, "oci-layout"), "w") as file:
        json.dump({"imageLayoutVersion": "1.0.0"}, file)
    with open(os.path.join(out, "index.json"), "w") as file:
        json.dump({"schemaVersion": 2, "manifests": [manifest]}, file)


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in IMAGES:
        sys.exit(__doc__)
    write_layout(sys.argv[2], IMAGES[sys.argv[1]]())


if __name__ == "__main__":
    main()
