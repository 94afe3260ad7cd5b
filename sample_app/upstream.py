"""The services the shop talks to, in one small HTTP server: payments, stock, shipping rates and a mail gateway.

``python -m sample_app.upstream`` takes a free port, prints its URL and serves until standard input is closed or a
signal ends it.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

#: Extra latency of some services on top of the server's own, in ms.
SLOW_MS = {"fraud": 120.0, "rates": 25.0}


class Handler(BaseHTTPRequestHandler):
    """Routes: /stock/<sku>, /stock?sku=..., /rates/<country>, /fraud/<id>, /payments, /refunds/<id>, /mail, /feed."""

    protocol_version = "HTTP/1.1"  # keep-alive
    disable_nagle_algorithm = True
    latency_ms = 5.0

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        service, _, name = url.path.strip("/").partition("/")
        query = parse_qs(url.query)
        if service == "stock" and name:
            self._answer(200, {"sku": name, "on_hand": len(name) * 7 % 50})
        elif service == "stock":
            self._answer(200, {sku: {"sku": sku, "on_hand": len(sku) * 7 % 50} for sku in query.get("sku", [])})
        elif service == "rates":
            self._answer(200, {"country": name, "rate": "7.90"}, SLOW_MS["rates"])
        elif service == "fraud":
            self._answer(200, {"id": name, "score": 0.1}, SLOW_MS["fraud"])
        elif service == "feed":
            count = int(query.get("count", ["1000"])[0])
            self._answer(200, [{"sku": f"SKU-{n:05}", "price": f"{n % 90}.50"} for n in range(count)])
        else:
            self._answer(404, {"error": "no such service"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        service, _, name = urlsplit(self.path).path.strip("/").partition("/")
        if service == "payments" and body.get("card") == "expired":
            self._answer(402, {"error": "card expired"})
        elif service == "payments":
            self._answer(201, {"charged": body.get("amount"), "key": self.headers.get("Idempotency-Key")})
        elif service == "refunds":
            self._answer(503, {"error": "the bank does not answer"})
        elif service == "mail":
            messages = body if isinstance(body, list) else [body]
            self._answer(202, {"accepted": len(messages)})
        else:
            self._answer(404, {"error": "no such service"})

    def _answer(self, status: int, body: object, extra_ms: float = 0.0) -> None:
        time.sleep((self.latency_ms + extra_ms) / 1000)
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base class names it so
        """Says nothing: the demo's terminal belongs to the table."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency-ms", type=float, default=5.0, help="added to every answer")
    options = parser.parse_args()
    Handler.latency_ms = options.latency_ms
    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    try:
        # The parent's end of the pipe closes when the parent ends, however it ends.
        sys.stdin.read()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
