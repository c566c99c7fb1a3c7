"""What the benches share: running commands, their cost, and figures held against what they must reach."""

import json
import os
import statistics
import subprocess
import sys
import time

MIB = 1 << 20
COSTS = ("wall", "cpu", "rss")  # seconds, seconds, bytes


def run(command, env=None, output=subprocess.DEVNULL):
    """Runs a command to its end; what it and its children cost, as COSTS (rss: of the largest)."""
    start = time.monotonic()
    environment = {**os.environ, **(env or {})}
    process = subprocess.Popen(command, stdout=output, stderr=subprocess.PIPE, env=environment)
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - start
    process.returncode = os.waitstatus_to_exitcode(status)  # already waited for
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit {process.returncode}\n{errors.decode(errors='replace')}")
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "rss": usage.ru_maxrss * 1024}


def skopeo_copy():
    """`skopeo copy` as beta9's worker asks for it, as far as the installed one understands that: it copies as many
    layers at a time by itself, if it can't be told."""
    told = subprocess.run(["skopeo", "copy", "--help"], capture_output=True, text=True).stdout
    wanted = {"--image-parallel-copies": "8", "--retry-times": "5"}
    known = [word for option, value in wanted.items() if option in told for word in (option, value)]
    return ["skopeo", "copy", *known, "--preserve-digests", "--dest-tls-verify=false"]


def by_turns(contestants, runs):
    """Calls each of the functions `runs` times, by turns, after once to warm the caches; what each
    returns is a cost. Gives the medians and the samples of each."""
    samples = {name: [] for name in contestants}
    for turn in range(runs + 1):
        # Who goes first changes, so that none always finds another's warm cache.
        for name in sorted(contestants, reverse=turn % 2 == 1):
            cost = contestants[name]()
            if turn > 0:
                samples[name].append(cost)
    return {name: {**median(samples[name]), "samples": samples[name]} for name in contestants}


def median(samples):
    """The median of each cost."""
    return {cost: statistics.median(sample[cost] for sample in samples) for cost in COSTS}


def machine():
    """What the figures were taken on."""
    with open("/proc/cpuinfo") as file:
        models = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    return f"{models[0] if models else os.uname().machine}, {os.cpu_count()} cores"


class Figures:
    """Rows of `make bench`: printed as they come, kept for a file."""

    ROW = "{:<56} {:>10} {:>10} {:>10}  {}"

    def __init__(self):
        self.rows = []
        print(self.ROW.format("figure", "value", "must", "aim", "reached"))

    def add(self, name, value, must=None, aim=None, unit="", more_is_better=True, note=""):
        """One figure, and whether it reaches `must` and `aim`; without them it is for information."""

        def reaches(goal):
            return value >= goal if more_is_better else value <= goal

        def goal(value):
            return "" if value is None else f"{'>=' if more_is_better else '<='} {value:g}"

        if must is None:
            reached = "-"
        elif not reaches(must):
            reached = "NO"
        else:
            reached = "aim" if aim is not None and reaches(aim) else "must"
        shown = f"{value:.0f}" if value >= 1000 else f"{value:.3g}"
        print(self.ROW.format(name, shown + unit, goal(must), goal(aim), f"{reached:<5} {note}".rstrip()), flush=True)
        self.rows.append({"figure": name, "value": value, "unit": unit.strip(), "must": must, "aim": aim, "reached": reached, "note": note})

    def write(self, file, **details):
        """Keeps the rows, and whatever they were made of."""
        missed = [row["figure"] for row in self.rows if row["reached"] == "NO"]
        print(f"missed: {', '.join(missed)}" if missed else "every must is reached")
        with open(file, "w") as out:
            json.dump({"machine": machine(), "rows": self.rows, **details}, out, indent=1)
