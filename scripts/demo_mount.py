#!/usr/bin/env python3
"""Prints what a mount took of the link, and what a full pull would have: demo_mount.py REPORT INSPECTED.

REPORT is a file of `clipwright mount --report`, INSPECTED what `clipwright inspect --json` says.
"""
import json
import sys

with open(sys.argv[1]) as file:
    report = json.load(file)
layers = json.loads(sys.argv[2])["storage"].get("layers", [])
pull = sum({layer["digest"]: layer["compressed_bytes"] for layer in layers}.values())
fetched = report["clip_range_get_bytes_total"]
print(f"first read after {report['clip_first_exec_ms'] or 0:.0f} ms, "
      f"{report['clip_range_get_count']} requests, {fetched / 2**20:.2f} MiB over the link; "
      f"a full pull takes {pull / 2**20:.2f} MiB")
