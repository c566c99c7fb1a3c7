#!/usr/bin/env python3
"""Starts programs from lazily mounted images over a shaped link, with upstream's mount, with a full pull and with
ours, and holds every figure against what it must reach. See mount.sh.

*The floor* of a start is what nothing can be faster than: the same program from the local disk with a warm page cache,
one round trip, and the time in which the compressed bytes of the spans that it reads come over the link.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time

from measure import MIB, Figures, machine, run
from seek_table import SeekTable
from shaped_link import BYTES, MBIT, ROUND_TRIP, ShapedLink


class Image:
    """One image of the corpus, its archives, and its files on the local disk."""

    def __init__(self, name, args, link, work):
        self.name, self.args, self.link = name, args, link
        self.work = tempfile.mkdtemp(prefix=name, dir=work)
        self.reference = f"{link.address}/{name}:latest"
        self.layout = os.path.join(args.corpus, name)
        self.archive = self.path("ours.clip")
        run([args.ours, "index", "--insecure", link.address, self.reference, "-o", self.archive])
        self.upstream_archive = self.path("upstream.clip")
        self.rootfs = os.path.join(self.unpack(f"oci:{self.layout}:latest", "native"), "rootfs")
        config = json.loads(self.blob(self.manifest()["config"]["digest"]))["config"]
        self.command = [*config.get("Entrypoint", []), *config.get("Cmd", [])]
        self.environment = dict(pair.split("=", 1) for pair in config.get("Env", []))
        self.directory = config.get("WorkingDir") or "/"

    def path(self, name):
        return os.path.join(self.work, name)

    def fresh(self, name):
        """An empty directory."""
        path = self.path(name)
        shutil.rmtree(path, ignore_errors=True)
        os.mkdir(path)
        return path

    def manifest(self):
        with open(os.path.join(self.layout, "index.json")) as file:
            return json.loads(self.blob(json.load(file)["manifests"][0]["digest"]))

    def blob(self, digest):
        with open(os.path.join(self.layout, "blobs", *digest.split(":")), "rb") as file:
            return file.read()

    def unpack(self, source, name):
        """Pulls and unpacks it the usual way; where it lies."""
        pulled, bundle = self.fresh(name + "-pulled"), self.path(name + "-bundle")
        shutil.rmtree(bundle, ignore_errors=True)
        copy = ["skopeo", "copy", "--quiet", "--src-tls-verify=false", source, f"oci:{pulled}:latest"]
        if source.startswith("docker:"):
            copy = self.link.inside(copy)
        run(copy)
        run(["umoci", "unpack", "--image", f"{pulled}:latest", bundle])
        shutil.rmtree(pulled)
        return bundle

    def start(self, root):
        """Runs the image's program in `root` to its end; how many seconds."""
        begin = time.monotonic()
        inside = 'cd "$1" && shift && exec "$@"'
        command = ["chroot", root, "/bin/sh", "-c", inside, "sh", self.directory, *self.command]
        done = subprocess.run(command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{self.name}: {' '.join(command)}: exit {done.returncode}\n{done.stdout.decode(errors='replace')}")
        return time.monotonic() - begin

    # What follows measures one start, from the beginning of the mount to the program's end.

    def native(self):
        self.start(self.rootfs)
        return statistics.median(self.start(self.rootfs) for _ in range(3))

    def ours(self, *options, cache=None, work=None):
        """A start from our mount; the seconds and its report. `work`: what to do instead of the program."""
        cache = cache or self.fresh("cache")
        point, report = self.fresh("mount"), self.path("report.json")
        cold()
        begin = time.monotonic()
        mount = [self.args.ours, "mount", "--daemon", "--cache-dir", cache, "--insecure", self.link.address, "--report", report]
        said = subprocess.run(self.link.inside([*mount, *options, self.archive, point]), stdout=subprocess.PIPE, check=True).stdout
        assert said.startswith(b"mounted"), said
        try:
            work(point) if work else self.start(point)
            took = time.monotonic() - begin
        finally:
            unmount(point)
        while mounted_by(point):
            time.sleep(0.01)
        return took, read_report(report)

    def upstream(self):
        if not os.path.exists(self.upstream_archive):
            run([self.args.upstream, "index", self.reference, self.upstream_archive])
        point, cache = self.fresh("mount"), self.fresh("cache")
        cold()
        begin = time.monotonic()
        command = self.link.inside([self.args.upstream, "mount", "-cache", cache, self.upstream_archive, point])
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            for line in process.stdout:
                if line.startswith("ready"):
                    break
            else:
                raise SystemExit("upstream's mount ended")
            try:
                self.start(point)
                took = time.monotonic() - begin
            finally:
                unmount(point)
        return took

    def full(self):
        cold()
        begin = time.monotonic()
        bundle = self.unpack(f"docker://{self.reference}", "full")
        self.start(os.path.join(bundle, "rootfs"))
        took = time.monotonic() - begin
        shutil.rmtree(bundle)
        return took


def cold():
    """Nothing that is on the disk is in memory."""
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3")


def unmount(point):
    subprocess.run(["umount", point], check=True)


def mounted_by(point):
    """Whether a daemon is still busy with what was mounted here."""
    return subprocess.run(["pgrep", "-f", f"mount --detached.* {point}$"], stdout=subprocess.DEVNULL, check=False).returncode == 0


def read_report(path):
    with open(path) as file:
        return json.load(file)


def read_spans(archive, trace):
    """Compressed bytes of the spans that hold what a trace tells of."""
    table = SeekTable(archive)
    with open(trace) as file:
        document = json.load(file)
    touched = {}
    for source in document["sources"]:
        for touch in source["touches"]:
            touched.setdefault(source["layer"], []).append((touch["start"], touch["start"] + touch["length"]))
    total = 0
    for layer, ranges in touched.items():
        ranges.sort()
        for compressed, plain in table.layers[layer]:
            if any(start < plain.stop and plain.start < end for start, end in ranges):
                total += len(compressed)
    return total


def median_of(times, measure):
    """The run whose time is the median one."""
    runs = sorted((measure() for _ in range(times)), key=lambda run: run[0])
    return runs[len(runs) // 2]


def starts(figures, image, runs):
    """pydata's program: with a trace, without, once more, with upstream's mount, and by a full pull."""
    name, trace = image.name, image.path("trace.json")
    native = image.native()
    image.ours("--trace-out", trace)
    spans = read_spans(image.archive, trace)
    floor = native + ROUND_TRIP + spans / BYTES
    print(f"{name}: native {native:.2f} s; spans that are read {spans / MIB:.1f} MiB, {spans / BYTES:.2f} s of a link of {MBIT} Mbit/s; floor {floor:.2f} s")

    traced, report = median_of(runs, lambda: image.ours("--trace", trace))
    untraced, plain = median_of(runs, lambda: image.ours())
    bare, _ = median_of(runs, lambda: image.ours("--no-prefetch"))
    for what, took, told in (("with a trace", traced, report), ("without", untraced, plain)):
        print(
            f"{name}, {what}: {took:.2f} s; {told['clip_range_get_bytes_total'] / MIB:.1f} MiB in {told['clip_range_get_count']} requests;"
            f" verify and inflate {told['clip_inflate_cpu_seconds_total']:.2f} s of CPU; first read after {told['clip_first_exec_ms']:.0f} ms; {told['reads']} reads"
        )
    figures.add(f"{name}: mount to exit with a trace, ours / floor", traced / floor, 1.5, 1.15, more_is_better=False)
    figures.add(f"{name}: without a trace, ours / floor", untraced / floor, 2.5, 1.7, more_is_better=False)
    figures.add(f"{name}: nothing fetched ahead / without a trace", bare / untraced, 0.97, note=f"{bare:.2f} s")
    figures.add(f"{name}: nothing fetched ahead / with a trace", bare / traced, 0.97)
    fetched = report["clip_range_get_bytes_total"]
    figures.add(f"{name}: bytes fetched / of the spans read", fetched / spans, 1.3, 1.1, more_is_better=False)
    upstream = statistics.median(image.upstream() for _ in range(runs))
    figures.add(f"{name}: upstream's mount / ours with a trace", upstream / traced, 4, 6, note=f"{upstream:.1f} s")
    full = image.full()
    figures.add(f"{name}: pull and unpack / ours", full / traced, 5, 10, note=f"{full:.1f} s")
    cache = image.fresh("kept")
    image.ours("--fill=wait", cache=cache)
    again, _ = median_of(runs, lambda: image.ours(cache=cache))
    figures.add(f"{name}: second mount, mount to exit / native", again / native, 1.5, 1.1, more_is_better=False, note=f"{again:.2f} s")


def timed(work):
    begin = time.monotonic()
    work()
    return time.monotonic() - begin


def tar(root):
    subprocess.run(f"tar -cf - . | cat > {os.devnull}", cwd=root, shell=True, check=True)


def warm(image, work):
    """The time of `work` on a mount whose content is all in the cache, and that has done it once."""
    cache, took = image.path("filled"), []
    os.makedirs(cache, exist_ok=True)

    def twice(point):
        work(point)
        took.append(timed(lambda: work(point)))

    _, report = image.ours("--fill=wait", cache=cache, work=twice)
    return took[0], report


def warm_tar(figures, image):
    tar(image.rootfs)
    native = timed(lambda: tar(image.rootfs))
    ours, _ = warm(image, tar)
    figures.add(f"{image.name}: warm tar, native / ours", native / ours, 0.5, 0.8, note=f"{native:.2f} and {ours:.2f} s")


def warm_read(figures, image):
    files = (os.path.join(at, name) for at, _, names in os.walk(image.rootfs) for name in names)
    largest = max((file for file in files if os.path.isfile(file) and not os.path.islink(file)), key=os.path.getsize)
    inside = os.path.relpath(largest, image.rootfs)

    def read(root):
        run(["dd", f"if={os.path.join(root, inside)}", "of=/dev/null", "bs=1M", "status=none"])

    read(image.rootfs)
    native = timed(lambda: read(image.rootfs))
    ours, _ = warm(image, read)
    note = f"{os.path.getsize(largest) / MIB:.0f} MiB in {native:.2f} and {ours:.2f} s"
    figures.add(f"{image.name}: warm read of its largest file, native / ours", native / ours, 0.7, 0.95, note=note)


def find(figures, image):
    def walk(root):
        run(["find", root, "-printf", ""])

    walk(image.rootfs)
    native = timed(lambda: walk(image.rootfs))
    took = []
    image.ours(work=lambda point: took.append(timed(lambda: walk(point))))
    count = sum(len(directories) + len(files) for _, directories, files in os.walk(image.rootfs))
    figures.add(f"{image.name}: find, native warm / ours cold", native / took[0], 0.3, 0.6, note=f"{count} files")


def memory(figures, image):
    """Resident memory of a mount that all was read of."""
    resident = []

    def read(point):
        tar(point)
        pid = subprocess.run(["pgrep", "-f", f"mount --detached.* {point}$"], stdout=subprocess.PIPE, check=True).stdout.split()[0]
        with open(f"/proc/{int(pid)}/status") as file:
            resident.append(int(file.read().split("VmRSS:")[1].split()[0]) * 1024)

    image.ours(work=read)
    figures.add(f"{image.name}: memory after all was read", resident[0] / MIB, 150, 80, " MiB", more_is_better=False)


def many(figures, image, count=50):
    """Mounts of one image at once: memory of each, and how long until it is ready."""
    points = [image.fresh(f"many{n}") for n in range(count)]
    mount = [image.args.ours, "mount", "--daemon", "--cache-dir", image.fresh("cache"), "--insecure", image.link.address, image.archive]
    image.ours()  # the archive is on the disk's good side
    ready = []
    for point in points:
        ready.append(timed(lambda: run(image.link.inside([*mount, point]))))
    resident = []
    for pid in subprocess.run(["pgrep", "-f", "mount --detached.*many"], stdout=subprocess.PIPE, check=True).stdout.split():
        with open(f"/proc/{int(pid)}/smaps_rollup") as file:
            resident.append(int(file.read().split("Pss:")[1].split()[0]) * 1024)
    for point in points:
        unmount(point)
    figures.add(f"{image.name}: {count} mounts, memory of each", statistics.mean(resident) / MIB, 40, 15, " MiB", more_is_better=False)
    figures.add(f"{image.name}: {count} mounts, ready after, median", statistics.median(ready) * 1000, 200, 60, " ms", more_is_better=False)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for option in ("--ours", "--upstream", "--toxiproxy", "--registry", "--corpus", "--json"):
        arguments.add_argument(option, required=True)
    arguments.add_argument("--runs", type=int, default=3)
    arguments.add_argument("images", nargs="+")
    args = arguments.parse_args()
    figures = Figures()
    with tempfile.TemporaryDirectory(prefix="mount", dir=os.path.dirname(args.json)) as work, ShapedLink(args.toxiproxy, args.registry) as link:
        for name in args.images:
            image = Image(name, args, link, work)
            if name == "pydata":
                starts(figures, image, args.runs)
            if name == "node":
                warm_tar(figures, image)
                find(figures, image)
                many(figures, image)
            if name == "torch":
                warm_read(figures, image)
                memory(figures, image)
            shutil.rmtree(image.work)
    print(f"on {machine()}")
    figures.write(args.json)


if __name__ == "__main__":
    main()
