"""Local HTTP server with configurable failures."""

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
    """Files and behaviour of the server; tests set its attributes."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.ranges = True
        """Whether range requests are supported."""
        self.if_range = True
        """Whether the If-Range header is respected."""
        self.headers: dict[str, str] = {}
        """Additional headers of every response; an empty value removes a default header."""
        self.cuts: list[int] = []
        """Numbers of bytes after which the next responses are cut."""
        self.statuses: list[int] = []
        """Status codes of the next responses, sent instead of the file."""
        self.chunk, self.pause = 1 << 16, 0.0
        self.requests: list[tuple[str, str | None]] = []
        """Path and Range header of every request."""
        self.conditions: list[str | None] = []
        """If-Range header of every request."""
        self.base = ""


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            name, byte_range = self.path.rsplit("/", 1)[1], self.headers.get("Range")
            server.requests.append((self.path, byte_range))
            body = server.files.get(name)
            if server.statuses or body is None:
                self.send_error(server.statuses.pop(0) if server.statuses else 404)
                return
            headers = {"ETag": f'"{hashlib.md5(body).hexdigest()}"', **server.headers}
            start = (
                int(byte_range[6:-1]) if byte_range and server.ranges and re.fullmatch(r"bytes=\d+-", byte_range) else 0
            )
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
                for position in range(0, min(end, len(body)), server.chunk):
                    self.wfile.write(body[position : min(end, position + server.chunk)])
                    time.sleep(server.pause)
            except ConnectionError:  # the client was killed
                pass
            self.close_connection = True

    return Handler


@contextmanager
def serve() -> Iterator[Server]:
    """Run a server in a thread until the context ends."""
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
