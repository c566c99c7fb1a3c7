#!/usr/bin/env python3
"""Writes down the statements of a version that has landed, for tests/upgrade.rs:

    scripts/previous_statements.py COMMIT > tests/fixtures/previous.json

They are in `.sqlx`, where the build keeps the statements that it has checked."""

import json
import subprocess
import sys


def git(*arguments):
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout


commit = sys.argv[1]
files = git("ls-tree", "--name-only", commit, ".sqlx/").split()
statements = sorted(json.loads(git("show", f"{commit}:{file}"))["query"] for file in files)
migrations = [
    int(file.removeprefix("migrations/").split("_")[0])
    for file in git("ls-tree", "--name-only", commit, "migrations/").split()
    if file.endswith(".sql")
]
json.dump({"migrations": max(migrations), "statements": statements}, sys.stdout, indent=1)
print()
