"""A web server on this machine that can be as bad as those of the world."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server:
    """What the server has and how it behaves; tests change it as they like."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.ranges = True
        """Whether parts are sent at all."""
        self.if_range = True
        """Whether it looks at the condition of a range."""
        self.headers: dict[str, str] = {}
        """Further headers of every answer; an empty one takes the usual header away."""
        self.cuts: list[int] = []
        """After how many bytes the next answers break off."""
        self.statuses: list[int] = []
        """What the next requests are answered with instead of the file."""
        self.chunk, self.pause = 1 << 16, 0.0
        self.asked: list[tuple[str, str | None]] = []
        """Path and range of every request."""
        self.conditions: list[str | None] = []
        """What every request makes its range depend on."""
        self.base = ""


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            name, wanted = self.path.rsplit("/", 1)[1], self.headers.get("Range")
            server.asked.append((self.path, wanted))
            body = server.files.get(name)
            if server.statuses or body is None:
                self.send_error(server.statuses.pop(0) if server.statuses else 404)
                return
            headers = {"ETag": f'"{hashlib.md5(body).hexdigest()}"', **server.headers}
            start = int(wanted[6:-1]) if wanted and server.ranges and re.fullmatch(r"bytes=\d+-", wanted) else 0
            condition = self.headers.get("If-Range")
            server.conditions.append(condition)
            if server.if_range and condition not in (None, headers.get("ETag"), headers.get("Last-Modified")):
                start = 0
            if start >= len(body) > 0:
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            for header, value in {"Content-Length": str(len(body) - start), **headers}.items():
                if value:
                    self.send_header(header, value)
            self.end_headers()
            self._send(body[start:])

        def _send(self, body: bytes) -> None:
            end = server.cuts.pop(0) if server.cuts else len(body)
            try:
                for place in range(0, min(end, len(body)), server.chunk):
                    self.wfile.write(body[place : min(end, place + server.chunk)])
                    time.sleep(server.pause)
            except ConnectionError:  # the client was killed
                pass
            self.close_connection = True

    return Handler


@contextmanager
def serve() -> Iterator[Server]:
    """Run a server as long as it is needed."""
    server = Server()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), _handler(server))
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    server.base = f"http://127.0.0.1:{httpd.server_port}"
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()
