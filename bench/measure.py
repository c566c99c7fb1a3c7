#!/usr/bin/env python3
"""Has upstream and us do the same with the same images by turns, and compares what it costs. See
index.sh and pack.sh."""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

FIGURES = ("wall", "cpu", "rss", "written")  # seconds, seconds, bytes, bytes to disk
HEADS = {"wall": "wall s", "cpu": "CPU s", "rss": "peak MiB", "written": "disk MB"}


def run(commands):
    """Runs commands one after the other; what they cost together, as FIGURES."""
    cost = dict.fromkeys(FIGURES, 0)
    for command in commands:
        start = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        errors = process.stderr.read()
        # Waited for, but not reaped: what it wrote can still be asked for.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        wall = time.monotonic() - start
        written = written_by(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)  # already waited for
        if process.returncode != 0:
            said = errors.decode(errors="replace")
            sys.exit(f"{' '.join(command)}: exit {process.returncode}\n{said}")
        cost["wall"] += wall
        cost["cpu"] += usage.ru_utime + usage.ru_stime
        cost["rss"] = max(cost["rss"], usage.ru_maxrss * 1024)
        cost["written"] += written
    return cost


def written_by(pid):
    """Bytes that a process caused to be written to a disk, some of them by and by."""
    with open(f"/proc/{pid}/io") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("write_bytes:"))


def compare(image, tools, runs, scratch):
    """The median figures of each tool on one image."""
    samples = {name: [] for name in tools}
    size = {}
    with tempfile.TemporaryDirectory(dir=scratch) as directory:
        for turn in range(runs + 1):
            # Who goes first changes, so that neither always finds the other's warm cache.
            for name in sorted(tools, reverse=turn % 2 == 1):
                work = os.path.join(directory, name)
                shutil.rmtree(work, ignore_errors=True)
                os.mkdir(work)
                os.sync()  # what others wrote is not to be waited for by us
                archive = os.path.join(work, "archive.clip")
                cost = run(tools[name](image, work, archive))
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


def indexers(args):
    """From a registry to a v2 archive."""

    def reference(image):
        return f"{args.from_}/{image}:latest"

    return {
        "upstream": lambda image, _, out: [[args.upstream, "index", reference(image), out]],
        "clipwright": lambda image, _, out: [[args.ours, "index", reference(image), "-o", out]],
    }


def packers(args):
    """From an OCI layout to a v1 archive."""

    def upstream(image, work, out):
        bundle = os.path.join(work, "bundle")
        layout = f"{os.path.join(args.from_, image)}:latest"
        return [
            ["umoci", "unpack", "--image", layout, bundle],
            # Upstream's writer waits for ever at a fifo.
            ["find", bundle, "-type", "p", "-delete"],
            [args.upstream, "create", bundle, out],
        ]

    def ours(image, _, out):
        return [[args.ours, "pack", f"oci:{os.path.join(args.from_, image)}", "-o", out]]

    return {"upstream": upstream, "clipwright": ours}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["index", "pack"])
    parser.add_argument("--upstream", required=True, help="the interop program")
    parser.add_argument("--ours", required=True, help="the clipwright program")
    parser.add_argument("--from", dest="from_", required=True, help="registry, or directory of layouts")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", required=True)
    parser.add_argument("images", nargs="+")
    args = parser.parse_args()

    tools = {"index": indexers, "pack": packers}[args.what](args)
    figures = FIGURES if args.what == "pack" else FIGURES[:3]
    results = {}
    row = "{:<8}" + " {:>8} {:>8} {:>6} " * len(figures) + " {:>9} {:>9}"
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, median of {args.runs}")
    heads = [cell for figure in figures for cell in (HEADS[figure], "", "")]
    print(row.format("", *heads, "archive MB", ""))
    print(row.format("image", *["upstream", "ours", "ratio"] * len(figures), "upstream", "ours"))
    for image in args.images:
        results[image] = compare(image, tools, args.runs, os.path.dirname(args.json))
        upstream, ours = results[image]["upstream"], results[image]["clipwright"]
        cells = []
        for figure in figures:
            unit = {"rss": 1 << 20, "written": 1e6}.get(figure, 1)
            form = "{:.2f}" if unit == 1 else "{:.0f}"
            cells += [form.format(upstream[figure] / unit), form.format(ours[figure] / unit)]
            cells.append(f"{upstream[figure] / max(ours[figure], 1e-9):.2f}")
        sizes = [f"{side['archive'] / 1e6:.2f}" for side in (upstream, ours)]
        print(row.format(image, *cells, *sizes), flush=True)
    print("ratio: upstream's figure over ours; above 1, ours is the smaller")
    with open(args.json, "w") as file:
        json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
