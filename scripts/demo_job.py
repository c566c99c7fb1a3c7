#!/usr/bin/env python3
"""Submits a job, tells its events on standard error, and what came of it as a table.

usage: demo_job.py BASE_URL JOB        (JOB is the body of POST /v1/jobs)

Prints the key of the archive on standard output. Exits with 1, and the reason, when the job fails.
"""

import json
import sys
import urllib.error
import urllib.request


# The service is on this machine: no proxy, whatever the environment says.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def request(url, body=None, **headers):
    data = None if body is None else json.dumps(body).encode()
    if data is not None:
        headers["Content-Type"] = "application/json"
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        return DIRECT.open(urllib.request.Request(url, data, headers))
    except urllib.error.HTTPError as error:
        sys.exit(f"{url}: {error.code}: {error.read().decode(errors='replace')}")


def say(*words):
    print(*words, file=sys.stderr, flush=True)


def megabytes(count):
    return f"{count / 1e6:.2f} MB"


def tell(event):
    data = event.get("data") or {}
    kind = event["event"]
    if kind == "progress":
        done = f"{data['layers_done']} of {data['layers_total']} layers"
        say("  progress:", done + ",", megabytes(data["bytes_done"]), "of", megabytes(data["bytes_total"]))
    elif kind == "resolved":
        say("  resolved:", data["manifest_digest"])
    elif kind == "fell_back":
        say("  fell back:", data["reason"])
    elif kind == "warning":
        say("  warning:", data["message"])
    elif kind in ("failed", "retrying"):
        say(f"  {kind}:", data["error"]["message"])
    else:
        say(f"  {kind}")


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    base, body = sys.argv[1], json.loads(sys.argv[2])
    with request(f"{base}/v1/jobs", body) as response:
        job = json.load(response)
    say(f"  job {job['id']}")
    final = None
    with request(f"{base}/v1/jobs/{job['id']}/events", Accept="application/x-ndjson") as lines:
        for line in lines:
            if line.strip():
                final = json.loads(line)
                tell(final)
    if final is None or final["event"] != "succeeded":
        sys.exit("the job did not succeed")
    result = final["data"]["result"]
    migration = result.get("migration") or {}
    compared = migration.get("compared")
    rows = [
        ("image", result["reference"]),
        ("version", result["clip_version"]),
        ("layers", len(result["layers"])),
        ("compressed", megabytes(result["compressed_bytes"])),
        ("archive", megabytes(result["archive"]["size"])),
        ("files", result["files"]),
        ("seconds", f"{result['seconds']:.2f}"),
    ]
    if compared:
        rows.append(("compared", f"{compared['files']} files, {megabytes(compared['bytes'])}: all the same"))
    if migration.get("kept"):
        rows.append(("kept", migration["kept"]))
    for name, value in rows:
        say(f"  {name:<12}{value}")
    print(result["archive"]["key"])


if __name__ == "__main__":
    main()
