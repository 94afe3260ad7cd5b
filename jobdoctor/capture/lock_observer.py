"""Who blocks whom in a database: PostgreSQL and MySQL are asked by a small process beside the worker, while a statement
stands still; waits for SQLite are seen from outside (``blockers_sqlite``).

Who watches the horse calls ``LockObserver.tick`` meanwhile. When an execution opens its first session of such a
database, the observer process (``blockers``) is started, giving way to the job, so that it is ready for the first wait:
0.1 to 0.3 s of CPU and 10 to 20 MB of its own, by the driver that it imports; it ends by itself when nobody asks it
anything for ten minutes. When the recorder says that a statement has been running for ``AFTER_NS``, the process is
asked which session blocks the job's, and with what. Neither side ever waits for the other: the pipes do not block here,
and there is one question open at a time.

Connection parameters, the password among them, travel through the process's standard input and are kept in memory only.
A blocking statement is fingerprinted in the process, before it is sent back. There is at most one session for each
server, read-only in effect, named ``jobdoctor-lock-observer``, with a statement timeout of one second.
"""

from __future__ import annotations

import atexit
import json
import mmap
import os
import re
import subprocess
import sys
import time
from typing import Any, Final

from jobdoctor.capture import blockers_sqlite, recording
from jobdoctor.capture.recording import InFlight, Recording
from jobdoctor.model import LockWait

#: A statement that runs longer may be blocked. Local statements take a millisecond; 50 ms is what a reader notices.
AFTER_NS: Final = 50_000_000
#: Between two questions about one call.
EVERY_NS: Final = 25_000_000
#: A question without an answer after this is given up: the observer hangs in a connect.
PATIENCE_NS: Final = 5_000_000_000
#: SQLite's waits are looked at from outside, which costs nobody anything: ten times a statement's time.
SQLITE_AFTER_NS: Final = 15_000_000
#: A statement that only takes a lock and took longer was blocked, also when nobody was seen holding it.
LOCK_STATEMENT_NS: Final = 10_000_000
#: Of a process that ended because nobody asked it (``blockers.IDLE_STATUS``, without importing that).
IDLE_STATUS: Final = 75
#: A process that fails is not started for ever.
STARTS: Final = 3

_TARGETS: Final = ("postgresql://", "mysql://")
#: Statements that take a lock, of those that are about locks.
_RELEASES: Final = re.compile(r"unlock|release_|is_free_lock|is_used_lock", re.IGNORECASE)


class _Blocked:
    """A call that was seen blocked."""

    def __init__(self, call: InFlight, server: str, first_ns: int, facts: dict[str, Any]) -> None:
        self.call = call
        self.server = server
        self.first_ns = first_ns
        self.last_ns = first_ns
        self.free_ns = 0  # first seen not blocked any more
        self.facts = facts


class LockObserver:
    """The worker's side. ``problem`` says what could not be observed in this execution, or is empty."""

    def __init__(self, command: list[str] | None = None) -> None:
        self.problem = ""
        self._command = command or [sys.executable, "-m", "jobdoctor.capture.blockers"]
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0
        self._owner = 0
        self._prepared = False
        self._known: set[str] = set()  # servers whose connection parameters the process has
        self._unread = b""
        self._asked_ns = 0
        self._asked: InFlight | None = None
        self._asked_server = ""
        self._calls: dict[int, _Blocked] = {}
        self._answered: set[int] = set()

    # -- one execution

    def begin(self) -> None:
        """The next execution: what was seen of the last one is forgotten."""
        self.problem = ""
        try:
            self._read()
        except (OSError, ValueError) as error:
            self._failed(error)
        self._calls.clear()
        self._answered.clear()
        if self._process is not None and self._asked is None and self._process.poll() == IDLE_STATUS:
            self.close()
            self._starts -= 1

    def tick(self, buffer: mmap.mmap | bytes | bytearray | memoryview) -> None:
        """Look at the recording that is being written; ask when a statement stands still. Some microseconds; never
        blocks, never raises an error of its own."""
        try:
            self._read()
            if not self._prepared:
                self._prepare(buffer)
            now = time.perf_counter_ns()
            call = recording.in_flight(buffer, now - min(SQLITE_AFTER_NS, AFTER_NS))
            if call is None or call.channel != "sql":
                return
            if call.target.startswith("sqlite:"):
                self._look_at_sqlite(call, buffer, now)
            if not call.target.startswith(_TARGETS):
                return
            if now - call.start_ns < AFTER_NS or now - self._asked_ns < EVERY_NS:
                return
            if self._asked is not None:
                if now - self._asked_ns > PATIENCE_NS:
                    self.problem = "The lock observer gave no answer"
                    self.close()
                return
            self._ask(call, buffer, now)
        except (OSError, ValueError, KeyError) as error:
            self._failed(error)

    def _look_at_sqlite(self, call: InFlight, buffer: Any, now: int) -> None:
        if now - call.start_ns < SQLITE_AFTER_NS or call.thread:
            return
        pid = recording.writer(buffer)
        blocked = None
        if pid and blockers_sqlite.waits(pid):
            known = self._calls.get(call.start_ns)
            session = known.facts["session"] if known is not None else 0
            session = session or blockers_sqlite.holder(pid, call.target)
            blocked = {"kind": "sqlite", "session": session, "statement": "", "application": ""}
        self._saw(call, call.target, now, blocked)

    def end(self, recorded: Recording | None) -> list[LockWait]:
        """What was seen of this execution. ``start_ns`` is of the performance counter."""
        try:
            self._read()
        except (OSError, ValueError) as error:
            self._failed(error)
        ends = {}
        if recorded is not None:
            ends = {span.start_ns: span.start_ns + span.duration_ns for span in recorded.spans}
        waits = [self._wait(seen, ends.get(seen.call.start_ns)) for seen in self._calls.values()]
        if recorded is not None:
            waits += self._lock_statements(recorded)
        return waits

    def _wait(self, seen: _Blocked, end_ns: int | None) -> LockWait:
        # Blocked when it was first asked about: blocked from its start. Blocked when last asked about: until its end.
        last = seen.free_ns or end_ns or seen.last_ns
        facts = seen.facts
        return LockWait(
            kind=facts["kind"],
            target=seen.call.target,
            waited_ns=max(0, last - seen.first_ns),
            start_ns=seen.first_ns,
            statement=seen.call.fingerprint,
            blocking_statement=facts["statement"],
            blocking_backend=f"{seen.server}#{facts['session']}" if facts["session"] else "",
            blocking_application=facts["application"],
        )

    def _lock_statements(self, recorded: Recording) -> list[LockWait]:
        """Statements that only take a lock, took long, and were not seen blocked."""
        found = []
        for span in recorded.spans:
            group = recorded.groups[span.group]
            if (
                group.channel == "sql"
                and group.effect == "lock"
                and group.target.startswith(_TARGETS)
                and span.duration_ns > LOCK_STATEMENT_NS
                and span.start_ns not in self._calls
                and not _RELEASES.search(group.fingerprint)
            ):
                kind = "table" if group.operation == "LOCK" else "advisory"
                found.append(LockWait(kind, group.target, span.duration_ns, span.start_ns, statement=group.fingerprint))
        return found

    def _failed(self, error: Exception) -> None:
        self.problem = f"The lock observer failed: {type(error).__name__}: {error}"

    # -- the process

    def close(self) -> None:
        """End the process. Called at the worker's exit; a next question would start another."""
        process, self._process = self._process, None
        self._asked = None
        self._known.clear()
        self._unread = b""
        if process is None or self._owner != os.getpid():
            return  # in a forked horse: the process is its parent's
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    pass
        process.kill()
        process.wait()

    def _start(self) -> subprocess.Popen[bytes] | None:
        if self._process is not None:
            return self._process
        if self._starts >= STARTS:
            return None
        self._starts += 1
        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
        process = subprocess.Popen(  # noqa: S603
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
        )
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
        self._process = process
        self._owner = os.getpid()
        if self._starts == 1:
            atexit.register(self.close)
        return process

    def _prepare(self, buffer: Any) -> None:
        """Have the process ready when the first wait comes: for an execution that opens a session it could be asked
        about."""
        for backend, parameters in recording.secrets(buffer):
            self._prepared = True
            if self._start() is not None:
                self._write({"prepare": _server(backend), "parameters": parameters})
                return

    def _ask(self, call: InFlight, buffer: Any, now: int) -> None:
        sessions = [
            (backend, parameters)
            for backend, parameters in recording.secrets(buffer)
            if call.target == _server(backend) or call.target.startswith(_server(backend) + "/")
        ]
        if not sessions:
            return
        if self._start() is None:
            self.problem = self.problem or "The lock observer ended by itself"
            return
        server = _server(sessions[-1][0])
        question: dict[str, Any] = {
            "call": call.start_ns,
            "server": server,
            "sessions": [int(backend.rpartition("#")[2]) for backend, _ in sessions],
        }
        if server not in self._known:
            question["parameters"] = sessions[-1][1]
        self._asked_ns = now
        if self._write(question):
            self._known.add(server)
            self._asked, self._asked_server = call, server

    def _write(self, message: dict[str, Any]) -> bool:
        process = self._process
        if process is None or process.stdin is None:
            return False
        try:
            os.write(process.stdin.fileno(), json.dumps(message).encode() + b"\n")
        except BlockingIOError:
            return False
        except BrokenPipeError:
            self.problem = "The lock observer ended by itself"
            self.close()
            return False
        return True

    def _read(self) -> None:
        process = self._process
        if process is None or process.stdout is None or self._asked is None:
            return
        try:
            data = os.read(process.stdout.fileno(), 65536)
        except BlockingIOError:
            return
        if not data:
            self.problem = self.problem or "The lock observer ended by itself"
            self.close()
            return
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            self._answer(json.loads(line))

    def _answer(self, answer: dict[str, Any]) -> None:
        call, self._asked = self._asked, None
        if call is None or answer["call"] != call.start_ns:
            return
        if "problem" in answer:
            self.problem = answer["problem"]
            self._known.discard(self._asked_server)
            self._asked_ns = time.perf_counter_ns() + PATIENCE_NS
            return
        self.problem = answer.get("missing", "") or self.problem
        if answer["blocked"] or answer["sure"]:
            self._saw(call, self._asked_server, answer["at"], answer["blocked"])

    def _saw(self, call: InFlight, server: str, at: int, blocked: dict[str, Any] | None) -> None:
        seen = self._calls.get(call.start_ns)
        if blocked:
            if seen is None:
                first = at if call.start_ns in self._answered else call.start_ns
                seen = self._calls[call.start_ns] = _Blocked(call, server, min(first, at), blocked)
            seen.last_ns = at
            seen.free_ns = 0
            if not seen.facts["session"]:
                seen.facts = blocked
        elif seen is not None and not seen.free_ns:
            seen.free_ns = at
        self._answered.add(call.start_ns)


def _server(backend: str) -> str:
    """Of a session: "postgresql://db:5432/app" (whose locks end at the database) or "mysql://db:3306"."""
    return backend.rpartition("#")[0]
