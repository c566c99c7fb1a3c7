#!/usr/bin/env python3
"""Makes v1 archives of images by turns the upstream way and with ours, and holds every figure against
what it must reach. See pack.sh."""

import argparse
import os
import shutil
import tempfile

from measure import MIB, Figures, by_turns, run


class Image:
    """One image of the corpus, and how it is packed."""

    def __init__(self, name, args, work):
        self.name = name
        self.args = args
        self.layout = os.path.join(args.corpus, name)
        self.work = os.path.join(work, name)
        self.archive = os.path.join(self.work, "archive.clip")

    def upstream(self):
        """`umoci unpack`, and the Go library's archive of that."""
        self.clear()
        bundle = os.path.join(self.work, "bundle")
        unpack = run(["umoci", "unpack", "--image", f"{self.layout}:latest", bundle])
        # Upstream's writer waits for ever at a fifo; finding them is not its work.
        run(["find", bundle, "-type", "p", "-delete"])
        create = run([self.args.upstream, "create", bundle, self.archive])
        both = {cost: unpack[cost] + create[cost] for cost in ("wall", "cpu")}
        return {**both, "rss": max(unpack["rss"], create["rss"])}

    def ours(self):
        self.clear()
        return run([self.args.ours, "pack", f"oci:{self.layout}", "-o", self.archive])

    def clear(self):
        shutil.rmtree(self.work, ignore_errors=True)
        os.mkdir(self.work)
        os.sync()  # what another wrote is not to be waited for


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--upstream", required=True, help="the interop program")
    parser.add_argument("--ours", required=True, help="the clipwright program")
    parser.add_argument("--corpus", required=True, help="the directory of OCI layouts")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", required=True)
    parser.add_argument("images", nargs="+")
    args = parser.parse_args()

    figures, results = Figures(), {}
    with tempfile.TemporaryDirectory(dir=os.path.dirname(args.json)) as work:
        for name in args.images:
            image = Image(name, args, work)
            runs = by_turns({"upstream": image.upstream, "ours": image.ours}, args.runs)
            upstream, ours = runs["upstream"], runs["ours"]
            goals = (3, 5) if name in ("pydata", "node") else (None, None)
            note = f"{upstream['wall']:.2f} s / {ours['wall']:.2f} s"
            figures.add(f"{name}: pack wall, umoci and upstream / ours", upstream["wall"] / ours["wall"], *goals, note=note)
            note = f"{upstream['cpu']:.2f} s / {ours['cpu']:.2f} s"
            figures.add(f"{name}: pack CPU, umoci and upstream / ours", upstream["cpu"] / ours["cpu"], note=note)
            must = 160 if name == "torch" else None
            note = f"upstream {upstream['rss'] / MIB:.0f} MiB"
            figures.add(f"{name}: pack, peak memory", ours["rss"] / MIB, must, unit=" MiB", more_is_better=False, note=note)
            results[name] = runs
    figures.write(args.json, images=results)


if __name__ == "__main__":
    main()
