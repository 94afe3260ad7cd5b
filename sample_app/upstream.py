"""The services the shop talks to, in one small HTTP server: payments, stock, shipping rates and a mail gateway.

``python -m sample_app.upstream`` takes a free port, prints its URL and serves until standard input is closed or a
signal ends it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

#: Latency of some services on top of the server's own, in ms.
SLOW_MS = {
    "fraud": 550.0, "rates": 10.0, "payments": 30.0, "search": 20.0, "reports": 1_500.0, "routes": 1_300.0,
    "offers": 90.0, "reviews": 75.0, "delivery": 60.0, "crm": 10.0,
}  # fmt: skip
#: The carrier confirms a pickup this long after it first heard of it, in ms.
PICKUP_MS = 350.0
#: What others ask on the marketplace, in cents.
MARKET_CENTS = 990
#: Of thirty orders in a row, those that find the clearing house closed.
CLOSED = range(14, 22)
#: What customs take for a form that somebody has to look at, in ms.
STUCK_MS = 4_000.0


class Handler(BaseHTTPRequestHandler):
    """One method for each verb; the first part of the path is the service."""

    protocol_version = "HTTP/1.1"  # keep-alive
    disable_nagle_algorithm = True
    latency_ms = 5.0
    refunds: ClassVar[Counter[str]] = Counter()
    pickups: ClassVar[dict[str, float]] = {}
    letters: ClassVar[Counter[str]] = Counter()
    listed: ClassVar[dict[str, int]] = {}
    numbers: ClassVar[Iterator[int]] = itertools.count(1)
    passes: ClassVar[set[str]] = set()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        service, _, name = url.path.strip("/").partition("/")
        answers: dict[str, object] = {
            "stock": {"sku": name, "on_hand": _on_hand(name)},
            "rates": {"country": name, "rate": "7.90"},
            "fraud": {"id": name, "score": 0.1},
            "mail": {"version": 2, "data": ["gone@example.com", "full@example.com"]},
            "tracking": {"id": name, "where": "in transit"},
            "routes": {"day": name, "routes": 12},
            "reports": {"day": name, "pages": 7},
            "offers": {"sku": name, "cents": 990},
            "reviews": {"sku": name, "stars": 4},
            "delivery": {"sku": name, "days": 2},
        }
        if service == "stock" and not name:
            skus = parse_qs(url.query).get("sku", [])
            self._answer(200, {sku: {"sku": sku, "on_hand": _on_hand(sku)} for sku in skus})
        elif service == "market":
            self._answer(200, {"cents": self.listed.get(name, 0)})
        elif service == "customs":
            # Every other form is stuck in an office.
            self._answer(200, {"form": name}, 0.0 if int(name) % 2 else STUCK_MS)
        elif service == "pickups":
            asked = self.pickups.setdefault(name, time.monotonic())
            self._answer(200, {"confirmed": time.monotonic() - asked > PICKUP_MS / 1000})
        elif service in answers:
            self._answer(200, answers[service], SLOW_MS.get(service, 0.0))
        else:
            self._answer(404, {"error": "no such service"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        service, _, name = urlsplit(self.path).path.strip("/").partition("/")
        if service == "payments" and body.get("card") == "expired":
            self._answer(402, {"error": "card expired"})
        elif service == "payments":
            self._answer(201, {"charged": body.get("amount")}, SLOW_MS["payments"])
        elif service == "refunds":
            self._refund(name)
        elif service == "crm":
            self.passes.add(pass_ := f"pass-{next(self.numbers)}")
            self._answer(201, {"pass": pass_, "valid_s": 0})
        elif service == "pickups":
            self.pickups.setdefault(name, time.monotonic())
            self._answer(202, {"requested": name})
        elif service == "vouchers":
            self._answer(201, {"code": f"V-{name}"})
        elif service == "mail":
            self._answer(202, {"accepted": len(body) if isinstance(body, list) else 1})
        else:
            self._answer(404, {"error": "no such service"})

    def do_PUT(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        service, _, name = urlsplit(self.path).path.strip("/").partition("/")
        if service == "market":
            # A cent below what is asked, down to what others ask.
            self.listed[name] = max(MARKET_CENTS, body["cents"] - 1)
            self._answer(200, {"cents": self.listed[name]})
        elif service == "clearing":
            # Closed for a while, in the middle of the day.
            self._answer(503 if int(name) % 30 in CLOSED else 200, {})
        elif service == "letters":
            self._print(name)
        elif service == "crm":
            self._admit(self.headers.get("Authorization", ""))
        else:
            self._answer(200 if service in ("search", "parcels") else 404, {}, SLOW_MS.get(service, 0.0))

    def _print(self, letter: str) -> None:
        """The print shop is busy when it is first asked for a ``sorry-*`` letter, and for every third of the others."""
        self.letters[letter] += 1
        kind, _, number = letter.rpartition("-")
        busy = kind == "sorry" or int(number) % 3 == 0
        if self.letters[letter] == 1 and busy:
            self._answer(503, {"error": "the printer is busy"})
        else:
            self._answer(200, {"printed": letter})

    def _admit(self, pass_: str) -> None:
        """A pass to the customer relations service is good for one request."""
        if pass_ in self.passes:
            self.passes.discard(pass_)
            self._answer(200, {}, SLOW_MS["crm"])
        else:
            self._answer(401, {"error": "this pass is used up"})

    def _refund(self, reference: str) -> None:
        """The bank answers to ``order-*`` at the third attempt, to every third ``returned-*`` at the second."""
        self.refunds[reference] += 1
        kind, _, number = reference.partition("-")
        failures = 2 if kind == "order" else int(int(number) % 3 == 0)
        if self.refunds[reference] <= failures:
            self._answer(503, {"error": "the bank does not answer"})
        else:
            self._answer(201, {"refunded": reference})

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


def _on_hand(sku: str) -> int:
    return sum(sku.encode()) % 50


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone away (its patience ended, its job was killed) is no error of the service."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


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
