#!/usr/bin/env python3
"""What event streams cost: the memory of a service whose running jobs are followed by many clients.

The jobs are pulls from a registry that takes their requests and never answers, so that all of them run
for as long as it is measured.

    usage: followers.py --ours PROGRAM      with DATABASE_URL set
"""

import argparse
import json
import re
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request

from measure import MIB, Figures

JOBS = 100
FOLLOWERS = 500


def silent_registry():
    """Takes all connections and says nothing; its address."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    taken = []

    def take():
        while True:
            taken.append(listener.accept())

    threading.Thread(target=take, daemon=True).start()
    return "127.0.0.1:{}".format(listener.getsockname()[1])


def resident(pid):
    """Bytes of its memory that are its own or shared, at present and at most."""
    with open(f"/proc/{pid}/status") as file:
        status = file.read()
    return [int(re.search(rf"^{field}:\s+(\d+) kB", status, re.M)[1]) * 1024 for field in ("VmRSS", "VmHWM")]


class Service:
    def __init__(self, program, directory):
        command = [program, "serve", "--listen", "127.0.0.1:0", "--data-dir", directory, "--workers", str(JOBS)]
        command += ["--private-addresses", "true"]
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True)
        for line in self.process.stdout:
            if ready := re.match(r"clipwright is ready at (http://([^/\s]+))", line):
                self.base, (host, port) = ready[1], ready[2].split(":")
                self.address = (host, int(port))
                return
        self.log.seek(0)
        sys.exit("the service did not start:\n" + self.log.read().decode(errors="replace"))

    def ask(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def follow(self, job):
        """A stream of the job's events, read until it tells that the job has begun."""
        stream = socket.create_connection(self.address)
        stream.sendall(f"GET /v1/jobs/{job}/events HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())
        stream.settimeout(60)
        seen = b""
        while b"event: started" not in seen:
            more = stream.recv(1 << 16)
            if not more:
                sys.exit(f"the stream of job {job} ended:\n{seen.decode(errors='replace')}")
            seen += more
        return stream


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--ours", required=True)
    program = arguments.parse_args().ours
    registry = silent_registry()
    with tempfile.TemporaryDirectory() as directory:
        service = Service(program, directory)
        pid = service.process.pid
        try:
            jobs = []
            for n in range(JOBS):
                source = f"{registry}/app:{n}"
                jobs.append(service.ask("/v1/jobs", {"kind": "pull", "image_id": f"{n:016x}", "source": source})["id"])
            before = resident(pid)[0]
            streams = [service.follow(jobs[n % JOBS]) for n in range(FOLLOWERS)]
            running = len(service.ask("/v1/jobs?state=running&limit=100")["jobs"])
            now, most = resident(pid)
            what = f"memory, {len(streams)} followers of {running} running jobs"
            figures = Figures()
            note = f"now {now / MIB:.1f}; without followers {before / MIB:.1f}"
            figures.add(what, most / MIB, 100, 40, " MiB", more_is_better=False, note=note)
        finally:
            service.process.kill()
            service.process.wait()


if __name__ == "__main__":
    main()
