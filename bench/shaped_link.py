"""A whole link to a registry as a worker has it: 200 Mbit/s for all connections together, and 20 ms away.

A network namespace holds the client. Its one way out is a pair of interfaces of which the far one sends no
faster; toxiproxy, which listens there, holds every answer back by the time of a round trip.
"""

import json
import os
import subprocess
import time
import urllib.request

from slow_link import free_ports

MBIT = 200
BYTES = MBIT * 1_000_000 / 8  # a second
ROUND_TRIP = 0.020  # seconds
# Private, so that registries there are asked without TLS; not in use where benches run.
FAR, NEAR = "10.199.77.1", "10.199.77.2"


class ShapedLink:
    """The link, while the block runs; gives the registry's address at its far end."""

    def __init__(self, toxiproxy, registry):
        self.toxiproxy, self.registry = toxiproxy, registry
        self.name = f"link{os.getpid() % 100_000}"
        self.server = None

    def inside(self, command):
        """A command, to be run at the near end."""
        return ["nsenter", f"--net=/run/netns/{self.name}", *command]

    def __enter__(self):
        far, near = self.name + "f", self.name + "n"
        try:
            ip("netns", "add", self.name)
            ip("link", "add", far, "type", "veth", "peer", "name", near, "netns", self.name)
            ip("addr", "add", FAR + "/30", "dev", far)
            ip("link", "set", far, "up")
            for command in (["addr", "add", NEAR + "/30", "dev", near], ["link", "set", near, "up"], ["link", "set", "lo", "up"]):
                ip("-n", self.name, *command)
            shape = ["tbf", "rate", f"{MBIT}mbit", "burst", "256kb", "latency", "50ms"]
            subprocess.run(["tc", "qdisc", "add", "dev", far, "root", *shape], check=True)
            (control, port) = free_ports(2)
            self.control = f"127.0.0.1:{control}"
            command = [self.toxiproxy, "-host", "127.0.0.1", "-port", str(control)]
            self.server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            self.address = f"{FAR}:{port}"
            self.wait()
            self.post("/proxies", name="registry", listen=self.address, upstream=self.registry)
            latency = {"latency": int(ROUND_TRIP * 1000)}
            self.post("/proxies/registry/toxics", type="latency", stream="downstream", attributes=latency)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.server is not None:
            self.server.kill()
            self.server.wait()
        # The pair goes with it.
        subprocess.run(["ip", "netns", "del", self.name], check=False)

    def wait(self):
        while True:
            if self.server.poll() is not None:
                raise SystemExit(f"{self.toxiproxy} did not start")
            try:
                urllib.request.urlopen(f"http://{self.control}/version").close()
                return
            except OSError:
                time.sleep(0.02)

    def post(self, path, **body):
        request = urllib.request.Request(f"http://{self.control}{path}", json.dumps(body).encode(), method="POST")
        urllib.request.urlopen(request).close()


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True)
