#!/usr/bin/env python3
"""Measures whole builds, from the Dockerfile to the archive, as beta9's worker does them (CONTRACT D.3: buildah pull
and bud, push into a layout, then skopeo copy beside the Go indexer) and as `clipwright build` does. See build.sh."""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import time

from measure import Figures, skopeo_copy
from slow_link import LATENCY, RATE, SlowLink

# What the steps write, in MB: stands for packages that apt and pip install.
SYSTEM, LIBRARIES = 60, 30


def run(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


class Context:
    """A directory with a Dockerfile on a base; its files are half noise, half text, as programs are."""

    def __init__(self, directory, base):
        self.directory, self.base = directory, base
        os.makedirs(directory)
        for name, megabytes in (("system", SYSTEM), ("libraries", LIBRARIES)):
            with open(os.path.join(directory, name), "wb") as file:
                for _ in range(megabytes):
                    file.write(os.urandom(500_000) + b"clipwright builds and pulls images\n" * 14_286)

    def write(self, last, one_step=False):
        """The Dockerfile; `last` is what its small top layer says."""
        steps = "" if one_step else (
            "COPY system /opt/system\nRUN mkdir -p /usr/share/one && cp /opt/system /usr/share/one/packages\n"
            "COPY libraries /opt/libraries\n")
        with open(os.path.join(self.directory, "Dockerfile"), "w") as file:
            file.write(f"FROM {self.base}\n{steps}RUN echo {last} > /last\n")
        with open(os.path.join(self.directory, ".dockerignore"), "w") as file:
            file.write("Dockerfile\n")


class Reference:
    """beta9's worker."""

    def __init__(self, args, name):
        self.args, self.name = args, name
        self.work = os.path.join(args.work, name)
        os.makedirs(self.work)
        self.buildah = ["buildah", "--root", f"{self.work}/storage", "--runroot", f"{self.work}/run",
                        "--storage-driver", "overlay"]
        self.environment = {**os.environ, "BUILDAH_LAYERS": "true", "BUILDAH_ISOLATION": "chroot"}

    def build(self, context):
        args, started = self.args, time.monotonic()
        tag, layout = f"{args.target}/{self.name}:bench", f"{self.work}/layout"
        shutil.rmtree(layout, ignore_errors=True)
        run([*self.buildah, "pull", "--quiet", "--tls-verify=false", f"docker://{context.base}"], env=self.environment)
        run([*self.buildah, "bud", "--tls-verify=false", "--layers", "--format", "docker", "--jobs", "8",
             "-f", f"{context.directory}/Dockerfile", "-t", tag, context.directory], env=self.environment)
        run([*self.buildah, "push", "--quiet", "--compression-format", "gzip", "--compression-level", "1",
             tag, f"oci:{layout}:latest"])
        so_far = time.monotonic() - started
        # So that the indexer has something to read; not counted.
        aside = f"{args.aside}/{self.name}:bench"
        run(["skopeo", "copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false",
             f"oci:{layout}:latest", f"docker://{aside}"])
        started = time.monotonic()
        both = [
            [*skopeo_copy(), f"oci:{layout}:latest", f"docker://{tag}"],
            [args.upstream, "index", aside, f"{self.work}/image.clip"],
        ]
        for process in [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in both]:
            if process.wait() != 0:
                raise SystemExit(f"{process.args}: exit {process.returncode}")
        return so_far + time.monotonic() - started

    def remove(self):
        for what in (["rm", "--all"], ["rmi", "--all", "--force"]):
            subprocess.run([*self.buildah, *what], capture_output=True, check=False)
        subprocess.run(["umount", f"{self.work}/storage/overlay"], capture_output=True, check=False)
        shutil.rmtree(self.work, ignore_errors=True)


class Ours:
    def __init__(self, args, name):
        self.args, self.name = args, name
        self.work = os.path.join(args.work, name)
        os.makedirs(self.work)

    def build(self, context):
        started = time.monotonic()
        run([self.args.ours, "build", "-t", f"{self.args.target}/{self.name}:bench", "-o", f"{self.work}/image.clip",
             "--storage", f"{self.work}/storage", context.directory])
        return time.monotonic() - started

    def remove(self):
        shutil.rmtree(self.work, ignore_errors=True)


def measure(args, number, context, slow):
    """Each of the figures, in one round, by turns."""
    contestants = {"reference": Reference(args, f"reference-{number}"), "ours": Ours(args, f"ours-{number}")}
    found = {}
    steps = {"new": f"first {number}", "changed": f"second {number}", "unchanged": f"second {number}"}
    for step, last in steps.items():
        context.write(last)
        found[step] = {name: one.build(context) for name, one in contestants.items()}
    for one in contestants.values():
        one.remove()
    contestants = {"reference": Reference(args, f"reference-far-{number}"), "ours": Ours(args, f"ours-far-{number}")}
    slow.write(f"far {number}", one_step=True)
    found["base not local"] = {name: one.build(slow) for name, one in contestants.items()}
    for one in contestants.values():
        one.remove()
    return found


def main():
    parser = argparse.ArgumentParser()
    for name in ("upstream", "ours", "layout", "work", "target", "aside", "toxiproxy", "json"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    run(["skopeo", "copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false",
         f"oci:{args.layout}:latest", f"docker://{args.target}/whole/base:1"])
    with SlowLink(args.toxiproxy, args.target) as far:
        context = Context(f"{args.work}/context", f"{args.target}/whole/base:1")
        slow = Context(f"{args.work}/context-far", f"{far}/whole/base:1")
        rounds = [measure(args, number, context, slow) for number in range(args.runs)]
    figures = Figures()
    link = f"{LATENCY} ms and {RATE / 1000:.0f} MB/s a connection"
    for name, what, must, aim in (
        ("new", "a first build", None, None),
        ("unchanged", "an unchanged rebuild to its archive", 4, 10),
        ("changed", "one changed small top layer", 3, 8),
        ("base not local", f"base not local, one RUN, {link}", 1.5, 3),
    ):
        theirs = statistics.median(r[name]["reference"] for r in rounds)
        ours = statistics.median(r[name]["ours"] for r in rounds)
        figures.add(f"{what}: reference / ours", theirs / ours, must, aim, note=f"{theirs:.2f} s / {ours:.2f} s")
    figures.write(args.json, rounds=rounds)


if __name__ == "__main__":
    main()
