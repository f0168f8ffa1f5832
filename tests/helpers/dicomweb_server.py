"""A tiny DICOMweb server in a thread, with one series, that can be told to misbehave."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

BOUNDARY = "a-boundary"


@dataclass(frozen=True)
class Answer:
    """What the server sends; `length` overrides the length that it claims, `hang` is how long it pauses in between."""

    body: bytes = b""
    status: int = 200
    kind: str = "application/dicom+json"
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None
    hang: float = 0.0


def multipart(*parts: bytes, close: bool = True) -> Answer:
    """Images as a multipart answer, without the closing boundary if not `close`."""
    body = b"".join(
        b"--" + BOUNDARY.encode() + b"\r\nContent-Type: application/dicom\r\n\r\n" + part + b"\r\n" for part in parts
    )
    body += f"--{BOUNDARY}--\r\n".encode() if close else b""
    return Answer(body, kind=f'multipart/related; type="application/dicom"; boundary={BOUNDARY}')


Change = Callable[[str, int], Answer | None]


@dataclass
class Server:
    """What the server has and saw.

    `change` may answer a request (path, how many came for it before) in another way. `page` is its own limit of a
    list.
    """

    study: str
    series: str
    images: dict[str, bytes]
    change: Change = lambda _path, _before: None
    page: int = 1000
    pages: bool = True
    counts: bool = True
    host: str = ""
    asked: list[str] = field(default_factory=list)
    logins: list[str | None] = field(default_factory=list)
    sent: int = 0

    @property
    def url(self) -> str:
        return f"http://{self.host}/dicom-web/studies/{self.study}/series/{self.series}"

    def asked_for_images(self) -> int:
        return sum("/instances/" in path for path in self.asked)

    def answer(self, target: str) -> Answer:
        parts = urlsplit(target)
        before = self.asked.count(parts.path)
        self.asked.append(parts.path)
        changed = self.change(parts.path, before)
        if changed is not None:
            return changed
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        root = f"/dicom-web/studies/{self.study}/series"
        if parts.path == "/dicom-web/studies":
            return Answer(b"[]")
        if parts.path == root:
            told: dict[str, Any] = {"0020000E": {"vr": "UI", "Value": [self.series]}}
            if self.counts:
                told["00201209"] = {"vr": "IS", "Value": [len(self.images)]}
            return Answer(json.dumps([told]).encode())
        if parts.path == f"{root}/{self.series}/instances":
            start = int(query.get("offset", 0)) if self.pages else 0
            listed = sorted(self.images)[start : start + min(self.page, int(query.get("limit", 100)))]
            return Answer(json.dumps([{"00080018": {"vr": "UI", "Value": [uid]}} for uid in listed]).encode())
        image = self.images.get(parts.path.rpartition("/")[2])
        return multipart(image) if image is not None else Answer(status=404)


@contextmanager
def serving(server: Server, wrap: Callable[[Any], Any] | None = None) -> Iterator[Server]:
    """Serve on a free port of this computer; `wrap` may put TLS around the socket."""
    stop = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            server.logins.append(self.headers.get("Authorization"))
            answer = server.answer(self.path)
            try:
                self.send_response(answer.status)
                for name, value in {"Content-Type": answer.kind, **answer.headers}.items():
                    self.send_header(name, value)
                length = len(answer.body) if answer.length is None else answer.length
                self.send_header("Content-Length", str(length))
                self.end_headers()
                if answer.hang:
                    stop.wait(answer.hang)
                for start in range(0, len(answer.body), 1 << 16):
                    server.sent += self.wfile.write(answer.body[start : start + (1 << 16)])
                if length != len(answer.body):
                    self.close_connection = True
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            pass

    http = Quiet(("127.0.0.1", 0), Handler)
    if wrap is not None:
        http.socket = wrap(http.socket)
    server.host = f"127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        stop.set()
        http.shutdown()
        http.server_close()
        thread.join()
