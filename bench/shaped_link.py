"""A whole link to a registry as a worker has it: 200 Mbit/s for all connections together, and 20 ms away.

A network namespace holds the client. Its one way out is a pair of interfaces of which the far one sends no
faster; toxiproxy, which listens there, holds every answer back by the time of a round trip.
"""

import os
import subprocess

from toxiproxy import Toxiproxy, free_ports

MBIT = 200
BYTES = MBIT * 1_000_000 / 8  # a second
ROUND_TRIP = 0.020  # seconds
# Private, so that registries there are asked without TLS; not in use where benches run.
FAR, NEAR = "10.199.77.1", "10.199.77.2"


class ShapedLink:
    """The link, while the block runs; its `address` is the registry's."""

    def __init__(self, program, registry):
        self.program, self.registry, self.toxiproxy = program, registry, None
        self.name = f"link{os.getpid() % 100_000}"

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
            self.toxiproxy = Toxiproxy(self.program)
            self.address = f"{FAR}:{free_ports(1)[0]}"
            self.toxiproxy.proxy("registry", self.address, self.registry, latency={"latency": int(ROUND_TRIP * 1000)})
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.toxiproxy is not None:
            self.toxiproxy.stop()
        # The pair goes with it.
        subprocess.run(["ip", "netns", "del", self.name], check=False)


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True)
