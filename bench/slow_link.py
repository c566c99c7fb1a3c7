"""A link to a registry as object stores have it: some way off, and so many bytes a second on each connection."""

from toxiproxy import Toxiproxy, free_ports

LATENCY = 20  # milliseconds, on the way back
RATE = 25_000  # KB a second


class SlowLink:
    """Toxiproxy before a registry, while the block runs; gives the address to ask."""

    def __init__(self, program, registry):
        self.program = program
        self.registry = registry

    def __enter__(self):
        self.toxiproxy = Toxiproxy(self.program)
        address = f"127.0.0.1:{free_ports(1)[0]}"
        try:
            self.toxiproxy.proxy("registry", address, self.registry, latency={"latency": LATENCY}, bandwidth={"rate": RATE})
        except BaseException:
            self.__exit__()
            raise
        return address

    def __exit__(self, *_):
        self.toxiproxy.stop()
