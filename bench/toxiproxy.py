"""Toxiproxy, started and told by its HTTP API."""

import json
import socket
import subprocess
import time
import urllib.request


class Toxiproxy:
    """A server without proxies, until it is stopped."""

    def __init__(self, program):
        (port,) = free_ports(1)
        self.control = f"127.0.0.1:{port}"
        command = [program, "-host", "127.0.0.1", "-port", str(port)]
        self.server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while True:
            if self.server.poll() is not None:
                raise SystemExit(f"{program} did not start")
            try:
                urllib.request.urlopen(f"http://{self.control}/version").close()
                return
            except OSError:
                time.sleep(0.02)

    def proxy(self, name, listen, upstream, **toxics):
        """Lets connections to `listen` through to `upstream`, their answers with these toxics: attributes by kind."""
        self.post("/proxies", name=name, listen=listen, upstream=upstream)
        for kind, attributes in toxics.items():
            self.post(f"/proxies/{name}/toxics", type=kind, stream="downstream", attributes=attributes)

    def post(self, path, **body):
        request = urllib.request.Request(f"http://{self.control}{path}", json.dumps(body).encode(), method="POST")
        urllib.request.urlopen(request).close()

    def stop(self):
        self.server.kill()
        self.server.wait()


def free_ports(count):
    """Ports that were free a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports
