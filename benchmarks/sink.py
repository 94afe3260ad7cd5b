"""A local dead end for what agents send: it says yes to all, at once, and forgets it.

``python -m benchmarks.sink`` prints ``host:port`` and serves until standard input is closed. On the one port it speaks
HTTP (Sentry, Datadog, Elastic) and Scout's framing (a length of four bytes, then JSON), told apart by the first byte.
"""

from __future__ import annotations

import contextlib
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import BinaryIO

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
_YES = b"\x00\x00\x00\x02{}"


class Handler(socketserver.StreamRequestHandler):
    """One connection, kept open."""

    disable_nagle_algorithm = True
    rfile: BinaryIO

    def handle(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while first := self.rfile.read(1):
                if first == b"\x00":
                    size = int.from_bytes(first + self.rfile.read(3), "big")
                    self.rfile.read(size)
                    self.wfile.write(_YES)
                else:
                    self._http()

    def _http(self) -> None:
        self.rfile.readline()  # the rest of the request line
        length, chunked = 0, False
        while (line := self.rfile.readline().strip().lower()) != b"":
            name, _, value = line.partition(b":")
            if name == b"content-length":
                length = int(value)
            elif name == b"transfer-encoding":
                chunked = b"chunked" in value
            elif name == b"expect":
                self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while chunked and (size := int(self.rfile.readline().split(b";")[0] or b"0", 16)):
            self.rfile.read(size + 2)
        if chunked:
            self.rfile.readline()
        else:
            self.rfile.read(length)
        self.wfile.write(_ANSWER)


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64


@contextlib.contextmanager
def started_sink() -> Iterator[str]:
    """Runs the sink as a process of its own; yields ``host:port``."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.sink"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.communicate()


def main() -> None:
    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"127.0.0.1:{server.server_address[1]}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
