"""A link to a registry as object stores have it: some way off, and so many bytes a second on each connection."""

import json
import socket
import subprocess
import time
import urllib.request

LATENCY = 20  # milliseconds, on the way back
RATE = 25_000  # KB a second


class SlowLink:
    """Toxiproxy before a registry, while the block runs."""

    def __init__(self, program, registry):
        self.program = program
        self.registry = registry

    def __enter__(self):
        control, address = (f"127.0.0.1:{port}" for port in free_ports(2))
        host, port = control.split(":")
        command = [self.program, "-host", host, "-port", port]
        self.server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.control = control
        try:
            self.wait()
            self.post("/proxies", name="registry", listen=address, upstream=self.registry)
            self.post("/proxies/registry/toxics", type="latency", stream="downstream", attributes={"latency": LATENCY})
            self.post("/proxies/registry/toxics", type="bandwidth", stream="downstream", attributes={"rate": RATE})
        except BaseException:
            self.__exit__()
            raise
        return address

    def __exit__(self, *_):
        self.server.kill()
        self.server.wait()

    def wait(self):
        """Until it listens."""
        while True:
            if self.server.poll() is not None:
                raise SystemExit(f"{self.program} did not start")
            try:
                urllib.request.urlopen(f"http://{self.control}/version").close()
                return
            except OSError:
                time.sleep(0.02)

    def post(self, path, **body):
        request = urllib.request.Request(f"http://{self.control}{path}", json.dumps(body).encode(), method="POST")
        urllib.request.urlopen(request).close()


def free_ports(count):
    """Ports that were free a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports
