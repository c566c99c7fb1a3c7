"""A proxy before a registry that counts what is fetched of blobs."""

import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class CountingProxy:
    """`address`: where it listens. `fetched`: for each answer that brought a part of a blob, the
    blob's digest and the range of its bytes; for one that brought all of it, from 0."""

    def __init__(self, registry):
        self.fetched = []
        fetched = self.fetched

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                upstream = http.client.HTTPConnection(registry)
                headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                upstream.request(self.command, self.path, headers=headers)
                answer = upstream.getresponse()
                body = answer.read()
                if "/blobs/" in self.path and self.command == "GET":
                    place = answer.headers.get("Content-Range", "bytes 0-").removeprefix("bytes ")
                    start = int(place.split("-")[0])
                    fetched.append((self.path.rsplit("/", 1)[1], range(start, start + len(body))))
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "connection", "content-length", "date", "server"):
                        self.send_header(name, value)
                length = answer.headers["Content-Length"] if self.command == "HEAD" else len(body)
                self.send_header("Content-Length", str(length or 0))
                self.end_headers()
                self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
