#!/usr/bin/env python3
"""Indexes images by turns with upstream's indexer and with ours, and holds every figure against what it
must reach. See index.sh."""

import argparse
import json
import os
import statistics
import subprocess
import tempfile

from counting_proxy import CountingProxy
from measure import MIB, Figures, by_turns, machine, run
from seek_table import SeekTable
from slow_link import LATENCY, RATE, SlowLink

# What SOCI 0.16.1 makes of the same images with spans of 4 MiB: bytes of its index. Measured once on
# images of the same recipe (scripts/corpus.sh); it isn't packaged, so that the bench can't run it.
SOCI_INDEX = {"pydata": 10.9e6, "node": 16.1e6, "torch": 23.2e6}

# Images that are read over a slow link too.
SLOW_LINK = ("pydata", "torch")

# The work that can't be left out, by the fastest programs for it: inflate each layer, and take the
# SHA-256 of its compressed and of its plain bytes.
LIMIT = 'set -e; for layer; do igzip -dc "$layer" | openssl sha256; openssl sha256 "$layer"; done'


class Image:
    """One image of the corpus: its layers, and how it is indexed."""

    def __init__(self, name, args, work):
        self.name = name
        self.args = args
        self.reference = f"{args.registry}/{name}:latest"
        self.archive = os.path.join(work, name + ".clip")
        self.upstream_archive = os.path.join(work, name + "-upstream.clip")
        layout = os.path.join(args.corpus, name)

        def blob(digest):
            return os.path.join(layout, "blobs", *digest.split(":"))

        with open(os.path.join(layout, "index.json")) as file:
            manifest = json.load(file)["manifests"][0]["digest"]
        with open(blob(manifest)) as file:
            layers = json.load(file)["layers"]
        self.layers = {layer["digest"]: layer["size"] for layer in layers}
        self.files = [blob(digest) for digest in self.layers]
        self.compressed = sum(self.layers.values())

    def upstream(self, registry=None):
        command = [self.args.upstream, "index", self.at(registry), self.upstream_archive]
        return replacing(self.upstream_archive, command)

    def ours(self, *options, env=None, registry=None):
        command = [self.args.ours, "index", self.at(registry), "-o", self.archive, *options]
        return replacing(self.archive, command, env)

    def at(self, registry):
        """The image at another address of its registry."""
        return self.reference if registry is None else f"{registry}/{self.name}:latest"

    def limit(self):
        return run(["bash", "-o", "pipefail", "-c", LIMIT, "limit", *self.files])


def replacing(file, command, env=None):
    """Runs a command that makes a file."""
    if os.path.exists(file):
        os.remove(file)
    return run(command, env)


def cost(figures, image, cold):
    """Indexing with nothing known: time, memory, size."""
    runs = by_turns({"upstream": image.upstream, "ours": lambda: image.ours(*cold), "limit": image.limit}, image.args.runs)
    upstream, ours, limit = (runs[name] for name in ("upstream", "ours", "limit"))
    name = image.name

    def against(cost, other):
        return f"{other[cost]:.2f} s / {ours[cost]:.2f} s"

    figures.add(f"{name}: index wall, upstream / ours", upstream["wall"] / ours["wall"], 2.5, 4, note=against("wall", upstream))
    figures.add(f"{name}: index CPU, limit / ours", limit["cpu"] / ours["cpu"], 0.5, 0.8, note=against("cpu", limit))
    figures.add(f"{name}: index CPU, upstream / ours", upstream["cpu"] / ours["cpu"], note=against("cpu", upstream))
    both = limit["cpu"] / 2 / ours["wall"]
    note = f"{limit['cpu'] / 2:.2f} s / {ours['wall']:.2f} s"
    figures.add(f"{name}: index wall, half of limit's CPU / ours", both, 0.75, 0.9, note=note)
    goals = (128, 96) if name == "torch" else (None, None)
    memory = f"upstream {upstream['rss'] / MIB:.0f} MiB"
    figures.add(f"{name}: peak memory", ours["rss"] / MIB, *goals, unit=" MiB", more_is_better=False, note=memory)
    size = os.path.getsize(image.archive)
    if name in SOCI_INDEX:
        note = f"{size / 1e6:.2f} MB / {SOCI_INDEX[name] / 1e6:.1f} MB"
        figures.add(f"{name}: archive / SOCI's index", size / SOCI_INDEX[name], 0.8, 0.6, more_is_better=False, note=note)
    table = SeekTable(image.archive).size
    note = f"{table / 1e6:.2f} MB of {image.compressed / 1e6:.0f} MB"
    figures.add(f"{name}: seek table / compressed", table * 100 / image.compressed, 0.6, 0.35, unit=" %", more_is_better=False, note=note)
    return runs


def slow_link(figures, image):
    """Indexing with nothing known, over a link that gives little on each connection."""
    with SlowLink(image.args.toxiproxy, image.args.registry) as address:
        contestants = {
            "upstream": lambda: image.upstream(registry=address),
            "ours": lambda: image.ours("--no-cache", registry=address),
        }
        runs = by_turns(contestants, image.args.runs)
    upstream, ours = runs["upstream"], runs["ours"]
    note = f"{upstream['wall']:.2f} s / {ours['wall']:.2f} s; peak {ours['rss'] / MIB:.0f} MiB"
    link = f"{LATENCY} ms, {RATE // 1000} MB/s a connection"
    figures.add(f"{image.name}: {link}, upstream / ours", upstream["wall"] / ours["wall"], 5, 8, note=note)
    return runs


def known(figures, image, cold_upstream, work):
    """Indexing again, with all layers known."""
    env = {"XDG_CACHE_HOME": os.path.join(work, image.name + "-cache")}
    image.ours(env=env)
    again = by_turns({"ours": lambda: image.ours(env=env)}, image.args.runs)["ours"]
    note = f"{cold_upstream['wall']:.2f} s / {again['wall']:.3f} s"
    figures.add(f"{image.name}: all layers known, upstream cold / ours", cold_upstream["wall"] / again["wall"], 50, note=note)
    return again


def one_file(figures, image):
    """What is fetched for the file next to 10 KiB in size in the biggest layer."""
    layer = max(image.layers, key=image.layers.get)
    listing = subprocess.run([image.args.ours, "ls", "-R", "--json", image.archive], capture_output=True, check=True)
    files = [file for file in map(json.loads, listing.stdout.splitlines()) if file.get("layer") == layer]
    file = min(files, key=lambda file: (abs(file["length"] - 10240), file["path"]))
    with CountingProxy(image.args.registry) as proxy:
        source = f"{proxy.address}/{image.name}:latest"
        content = subprocess.run(
            [image.args.ours, "cat", "--source", source, image.archive, file["path"]], capture_output=True, check=True
        ).stdout
    if len(content) != file["length"]:
        raise SystemExit(f"{file['path']} has {file['length']} bytes, cat gave {len(content)}")
    fetched = [part for digest, part in proxy.fetched if digest == layer and part]
    spans = [span for span, _ in SeekTable(image.archive).layers[layer]]
    size = sum(map(len, fetched))
    # A byte that two spans share counts for the one that was asked for.
    touched = sum(any(len(range(max(s[0], p[0]), min(s[-1], p[-1]) + 1)) > 1 for p in fetched) for s in spans)
    note = f"{size / 1e6:.2f} MB of {len(spans)} spans for {file['path']} ({file['length']} bytes)"
    figures.add(f"{image.name}: cat of 10 KiB, spans fetched", touched, 2, 1, more_is_better=False, note=note)


def opening(figures, image):
    """Opening an archive: listing its root, less what starting the program takes."""
    report = subprocess.run([image.args.ours, "inspect", "--json", image.archive], capture_output=True, check=True)
    nodes = json.loads(report.stdout)["nodes"]
    listing, nothing = ([image.args.ours, "ls", image.archive, "/"], [image.args.ours, "--version"])
    pairs = [(run(listing)["wall"], run(nothing)["wall"]) for _ in range(21)]
    listed, started = (statistics.median(times) for times in zip(*pairs))
    note = f"{nodes} nodes"
    figures.add(f"{image.name}: open the archive", (listed - started) * 1000, 150, 50, unit=" ms", more_is_better=False, note=note)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--upstream", required=True, help="the interop program")
    parser.add_argument("--ours", required=True, help="the clipwright program")
    parser.add_argument("--registry", required=True)
    parser.add_argument("--toxiproxy", required=True, help="toxiproxy's server")
    parser.add_argument("--corpus", required=True, help="the directory of OCI layouts")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", required=True)
    parser.add_argument("images", nargs="+")
    args = parser.parse_args()

    print(f"{machine()}; medians of {args.runs}")
    figures = Figures()
    details = {}
    with tempfile.TemporaryDirectory(dir=os.path.dirname(args.json)) as work:
        for name in args.images:
            image = Image(name, args, work)
            details[name] = cost(figures, image, ["--no-cache"])
            details[name]["known"] = known(figures, image, details[name]["upstream"], work)
            if name in SLOW_LINK:
                details[name]["slow_link"] = slow_link(figures, image)
            if name == "torch":
                one_file(figures, image)
            if name == "node":
                opening(figures, image)
    figures.write(args.json, images=details)


if __name__ == "__main__":
    main()
