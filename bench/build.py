#!/usr/bin/env python3
"""Measures what follows a build's last RUN, upstream's way and ours, out of one storage, and holds the
ratios against what they must reach. See build.sh."""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import time

from measure import Figures, skopeo_copy


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


class Bench:
    def __init__(self, args):
        self.args = args
        self.round = 0
        self.buildah = ["buildah", "--root", f"{args.work}/storage", "--runroot", f"{args.work}/run",
                        "--storage-driver", "overlay"]

    def prepare(self):
        """The storage after a build: the image, and one with a small layer more. Its lowest layer is what the
        base has, which lies in the target registry."""
        args = self.args
        run([*self.buildah, "pull", "--quiet", f"oci:{args.layout}:latest"])
        listed = json.loads(run([*self.buildah, "images", "--json"]))
        self.image = listed[0]["id"]
        self.base_layout = os.path.join(args.work, "base")
        make_base(args.layout, self.base_layout)
        self.base = f"{args.target}/base/image:latest"
        run(["skopeo", "copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false",
             f"oci:{self.base_layout}:latest", f"docker://{self.base}"])
        small = os.path.join(args.work, "small")
        with open(small, "wb") as file:
            file.write(os.urandom(100_000))
        container = run([*self.buildah, "from", "--pull-never", self.image]).strip()
        run([*self.buildah, "copy", "--quiet", container, small, "/small"])
        self.changed = run([*self.buildah, "commit", "--quiet", "--rm", container]).strip().split("\n")[-1]

    def reference(self, image, repository):
        """CONTRACT D.3: exported once, then published and indexed at the same time."""
        args, started = self.args, time.monotonic()
        layout = os.path.join(args.work, "layout")
        shutil.rmtree(layout, ignore_errors=True)
        run([*self.buildah, "push", "--quiet", "--compression-format", "gzip", "--compression-level", "1",
             image, f"oci:{layout}:latest"])
        exported = time.monotonic() - started
        # So that the indexer has something to read; not counted.
        aside = f"{args.aside}/{repository}:bench"
        run(["skopeo", "copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false",
             f"oci:{layout}:latest", f"docker://{aside}"])
        started = time.monotonic()
        both = [
            [*skopeo_copy(), f"oci:{layout}:latest", f"docker://{args.target}/{repository}:bench"],
            [args.upstream, "index", aside, os.path.join(args.work, "reference.clip")],
        ]
        for process in [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in both]:
            if process.wait() != 0:
                raise SystemExit(f"{process.args}: exit {process.returncode}")
        return exported + time.monotonic() - started

    def ours(self, image, repository, learnt):
        os.makedirs(learnt, exist_ok=True)
        level = self.args.level or "default"
        return json.loads(run([self.args.ours, f"{self.args.work}/storage", f"sha256:{image}", self.args.target,
                               repository, self.base, learnt, level]))

    def measure(self):
        """Each of the figures, in one round: a first build, one with a changed top layer, one unchanged."""
        self.round += 1
        theirs, learnt = f"reference/{self.round}", os.path.join(self.args.work, f"learnt-{self.round}")
        found = {}
        images = {"first": self.image, "changed": self.changed, "unchanged": self.changed}
        for name, image in images.items():
            subprocess.run(["sync"], check=True)
            found[name] = {"reference": self.reference(image, theirs)}
            subprocess.run(["sync"], check=True)
            found[name] |= {"ours": self.ours(image, f"ours/{self.round}", learnt)}
        return found


def make_base(layout, base):
    """A layout of the lowest layer alone."""
    shutil.copytree(layout, base)

    def read(digest):
        with open(os.path.join(base, "blobs", *digest.split(":"))) as file:
            return json.load(file)

    def write(value):
        import hashlib
        data = json.dumps(value).encode()
        digest = hashlib.sha256(data).hexdigest()
        with open(os.path.join(base, "blobs", "sha256", digest), "wb") as file:
            file.write(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    with open(os.path.join(base, "index.json")) as file:
        index = json.load(file)
    manifest = read(index["manifests"][0]["digest"])
    config = read(manifest["config"]["digest"])
    config["rootfs"]["diff_ids"] = config["rootfs"]["diff_ids"][:1]
    config.pop("history", None)
    manifest["layers"] = manifest["layers"][:1]
    manifest["config"] |= write(config)
    index["manifests"][0] |= write(manifest)
    with open(os.path.join(base, "index.json"), "w") as file:
        json.dump(index, file)


def main():
    parser = argparse.ArgumentParser()
    for name in ("upstream", "ours", "layout", "work", "target", "aside", "json"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--level", default="")
    args = parser.parse_args()
    bench = Bench(args)
    bench.prepare()
    rounds = [bench.measure() for _ in range(args.runs)]
    figures = Figures()
    for name, must, aim in (("first", 2.5, 5), ("changed", 3, 8), ("unchanged", 4, 10)):
        theirs = statistics.median(r[name]["reference"] for r in rounds)
        ours = statistics.median(r[name]["ours"]["seconds"] for r in rounds)
        figures.add(f"after the last RUN, {name}: reference / ours", theirs / ours, must, aim,
                    note=f"{theirs:.2f} s / {ours:.2f} s")
    first = rounds[0]["first"]["ours"]
    figures.add("bytes written to disk / bytes of new layers", first["written_bytes"] / first["new_bytes"], 1.1, 0,
                more_is_better=False,
                note=f"{first['new_layers']} layers of {first['new_bytes'] / 1e6:.0f} MB, of which "
                     f"{first['written_bytes'] / 1e6:.1f} MB were written: their indexes and the archive")
    figures.write(args.json, rounds=rounds)


if __name__ == "__main__":
    main()
