#!/usr/bin/env python3
"""Runs two indexers on the same images by turns and compares what they cost. See index.sh."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time

FIGURES = ("wall", "cpu", "rss")  # seconds, seconds, bytes


def run(command):
    """Runs a command to its end; what it cost, as FIGURES."""
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - start
    process.returncode = os.waitstatus_to_exitcode(status)  # already waited for
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit {process.returncode}\n{errors.decode(errors='replace')}")
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "rss": usage.ru_maxrss * 1024}


def compare(image, tools, runs):
    """The median figures of each tool on one image."""
    samples = {name: [] for name in tools}
    size = {}
    with tempfile.TemporaryDirectory() as directory:
        for turn in range(runs + 1):
            # Who goes first changes, so that neither always finds the other's warm cache.
            for name in sorted(tools, reverse=turn % 2 == 1):
                archive = os.path.join(directory, name + ".clip")
                if os.path.exists(archive):
                    os.remove(archive)
                cost = run(tools[name](image, archive))
                size[name] = os.path.getsize(archive)
                if turn > 0:  # the first turn warms the page cache
                    samples[name].append(cost)
    return {
        name: {
            **{figure: statistics.median(s[figure] for s in samples[name]) for figure in FIGURES},
            "archive": size[name],
            "samples": samples[name],
        }
        for name in tools
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--upstream", required=True, help="the interop program")
    parser.add_argument("--ours", required=True, help="the clipwright program")
    parser.add_argument("--registry", required=True)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", required=True)
    parser.add_argument("images", nargs="+")
    args = parser.parse_args()

    def reference(image):
        return f"{args.registry}/{image}:latest"

    tools = {
        "upstream": lambda image, out: [args.upstream, "index", reference(image), out],
        "clipwright": lambda image, out: [args.ours, "index", reference(image), "-o", out],
    }
    results = {}
    row = "{:<8} {:>8} {:>8} {:>6}  {:>8} {:>8} {:>6}  {:>8} {:>8} {:>6}  {:>9} {:>9}"
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, median of {args.runs}")
    print(row.format("", "wall s", "", "", "CPU s", "", "", "peak MiB", "", "", "archive MB", ""))
    print(row.format("image", *["upstream", "ours", "ratio"] * 3, "upstream", "ours"))
    for image in args.images:
        results[image] = compare(image, tools, args.runs)
        upstream, ours = results[image]["upstream"], results[image]["clipwright"]
        cells = []
        for figure in FIGURES:
            unit = 1 << 20 if figure == "rss" else 1
            form = "{:.0f}" if figure == "rss" else "{:.2f}"
            cells += [form.format(upstream[figure] / unit), form.format(ours[figure] / unit)]
            cells.append(f"{upstream[figure] / max(ours[figure], 1e-9):.2f}")
        sizes = [f"{side['archive'] / 1e6:.2f}" for side in (upstream, ours)]
        print(row.format(image, *cells, *sizes), flush=True)
    print("ratio: upstream's figure over ours; above 1, ours is the smaller")
    with open(args.json, "w") as file:
        json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
