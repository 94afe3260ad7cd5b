"""Who blocks whom in PostgreSQL: a small process beside the worker asks while a statement of the job stands still.

The worker's parent calls ``LockObserver.tick`` while the horse runs. When the recorder says that a statement towards
PostgreSQL has been running for ``AFTER_NS``, the observer process is started (once in the worker's life) and asked
which session blocks the job's, and with what. Neither side ever waits for the other: the pipes do not block in the
worker, and there is one question open at a time.

Connection parameters, the password among them, travel through the process's standard input and are kept in memory only.
A blocking statement is fingerprinted in the observer, before it is sent back. There is at most one session for each
database, read-only in effect, named ``jobdoctor-lock-observer``, with a statement timeout of one second.
"""

from __future__ import annotations

import atexit
import importlib
import json
import mmap
import os
import subprocess
import sys
import time
from typing import Any, Final

from jobdoctor import fingerprint
from jobdoctor.capture import recording
from jobdoctor.capture.recording import InFlight, Recording
from jobdoctor.model import LockWait

#: A statement that runs longer may be blocked. Local statements take a millisecond; 50 ms is what a reader notices.
AFTER_NS: Final = 50_000_000
#: Between two questions about one call.
EVERY_NS: Final = 25_000_000
#: A question without an answer after this is given up: the observer hangs in a connect.
PATIENCE_NS: Final = 5_000_000_000
#: A statement that only takes a lock and took longer was blocked, also when nobody was seen holding it.
LOCK_STATEMENT_NS: Final = 10_000_000
STARTS: Final = 3
APPLICATION: Final = "jobdoctor-lock-observer"

_KINDS: Final = {"relation": "table", "advisory": "advisory", "object": "table", "page": "table", "extend": "table"}


class _Blocked:
    """A call that was seen blocked."""

    def __init__(self, call: InFlight, first_ns: int, facts: dict[str, Any]) -> None:
        self.call = call
        self.first_ns = first_ns
        self.last_ns = first_ns
        self.free_ns = 0  # first seen not blocked any more
        self.facts = facts


class LockObserver:
    """The worker's side. ``problem`` says why nothing can be observed, or is empty."""

    def __init__(self, command: list[str] | None = None) -> None:
        self.problem = ""
        self._command = command or [sys.executable, "-m", "jobdoctor.capture.lock_observer"]
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0
        self._owner = 0
        self._known: set[str] = set()  # databases whose connection parameters the process has
        self._unread = b""
        self._asked_ns = 0
        self._asked: InFlight | None = None
        self._calls: dict[int, _Blocked] = {}
        self._answered: set[int] = set()

    # -- one execution

    def begin(self) -> None:
        """The next execution: what was seen of the last one is forgotten."""
        self._read()
        self._calls.clear()
        self._answered.clear()

    def tick(self, buffer: mmap.mmap | bytes | bytearray | memoryview) -> None:
        """Look at the recording that is being written; ask when a statement stands still. Some microseconds; never
        blocks, never raises an error of its own."""
        try:
            self._read()
            call = recording.in_flight(buffer)
            if call is None or call.channel != "sql" or not call.target.startswith("postgresql://"):
                return
            now = time.perf_counter_ns()
            if now - call.start_ns < AFTER_NS or now - self._asked_ns < EVERY_NS:
                return
            if self._asked is not None:
                if now - self._asked_ns > PATIENCE_NS:
                    self.problem = "The lock observer gave no answer"
                    self.close()
                return
            self._ask(call, buffer, now)
        except (OSError, ValueError, KeyError) as error:
            self.problem = f"The lock observer failed: {type(error).__name__}: {error}"

    def end(self, recorded: Recording | None) -> list[LockWait]:
        """What was seen of this execution. ``start_ns`` is of the performance counter."""
        try:
            self._read()
        except (OSError, ValueError) as error:
            self.problem = f"The lock observer failed: {type(error).__name__}: {error}"
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
            blocking_backend=f"{seen.call.target}#{facts['pid']}" if facts["pid"] else "",
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
                and group.target.startswith("postgresql://")
                and span.duration_ns > LOCK_STATEMENT_NS
                and span.start_ns not in self._calls
                and "unlock" not in group.fingerprint
            ):
                kind = "table" if group.operation == "LOCK" else "advisory"
                found.append(LockWait(kind, group.target, span.duration_ns, span.start_ns, statement=group.fingerprint))
        return found

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

    def _ask(self, call: InFlight, buffer: Any, now: int) -> None:
        backends = [
            (backend, conninfo)
            for backend, conninfo in recording.secrets(buffer)
            if backend.rpartition("#")[0] == call.target
        ]
        process = self._start() if backends else None
        if process is None or process.stdin is None:
            return
        question: dict[str, Any] = {
            "call": call.start_ns,
            "target": call.target,
            "pids": [int(backend.rpartition("#")[2]) for backend, _ in backends],
        }
        if call.target not in self._known:
            question["conninfo"] = backends[-1][1]
        self._asked_ns = now
        try:
            os.write(process.stdin.fileno(), json.dumps(question).encode() + b"\n")
        except BlockingIOError:
            return
        except BrokenPipeError:
            self.problem = "The lock observer ended by itself"
            self.close()
            return
        self._known.add(call.target)
        self._asked = call

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
            self._known.discard(call.target)
            self._asked_ns = time.perf_counter_ns() + PATIENCE_NS
            return
        self.problem = ""
        seen = self._calls.get(call.start_ns)
        if answer["blocked"]:
            at = answer["at"]
            if seen is None:
                first = at if call.start_ns in self._answered else call.start_ns
                self._calls[call.start_ns] = _Blocked(call, min(first, at), answer["blocked"])
                self._calls[call.start_ns].last_ns = at
            else:
                seen.last_ns = at
                seen.free_ns = 0
        elif seen is not None and not seen.free_ns:
            seen.free_ns = answer["at"]
        self._answered.add(call.start_ns)


# --------------------------------------------------------------------------------------------------- the process itself

#: A blocker that waits itself comes last: the one that works, or idles in its transaction, is who holds everybody.
_QUESTION: Final = """
SELECT blocker.pid, coalesce(holder.query, ''), coalesce(holder.application_name, ''), coalesce(waited.locktype, '')
FROM pg_stat_activity AS session
CROSS JOIN LATERAL unnest(pg_blocking_pids(session.pid)) AS blocker(pid)
LEFT JOIN pg_stat_activity AS holder ON holder.pid = blocker.pid
LEFT JOIN LATERAL (SELECT locktype FROM pg_locks WHERE pid = session.pid AND NOT granted LIMIT 1) AS waited ON true
WHERE session.pid = ANY(%s) AND session.wait_event_type = 'Lock'
ORDER BY holder.wait_event_type IS NOT DISTINCT FROM 'Lock', holder.xact_start
LIMIT 1
"""


def _connect(conninfo: str) -> Any:
    try:
        import psycopg

        connection: Any = psycopg.connect(
            conninfo, autocommit=True, application_name=APPLICATION, connect_timeout=3, prepare_threshold=None
        )
    except ImportError:
        psycopg2: Any = importlib.import_module("psycopg2")
        connection = psycopg2.connect(conninfo, application_name=APPLICATION, connect_timeout=3)
        connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("SET statement_timeout = '1s'")
    return connection


def _look(connection: Any, pids: list[int]) -> dict[str, Any] | None:
    with connection.cursor() as cursor:
        cursor.execute(_QUESTION, (pids,))
        row = cursor.fetchone()
    if row is None:
        return None
    pid, query, application, lock = row
    return {
        "pid": pid,
        "statement": fingerprint.sql(query).fingerprint if query and not query.startswith("<") else "",
        "application": application[:200],
        "kind": _KINDS.get(lock, "row"),
    }


def _reply(connections: dict[str, Any], conninfos: dict[str, str], question: dict[str, Any]) -> dict[str, Any]:
    target = question["target"]
    if "conninfo" in question:
        conninfos[target] = question["conninfo"]
    try:
        connection = connections.get(target)
        if connection is None:
            connection = connections[target] = _connect(conninfos[target])
        blocked = _look(connection, question["pids"])
        return {"call": question["call"], "at": time.perf_counter_ns(), "blocked": blocked}
    except ImportError:
        problem = "Lock waits in PostgreSQL: psycopg is not installed where the worker runs; install psycopg[binary]"
    except Exception as error:
        broken = connections.pop(target, None)
        if broken is not None:
            try:
                broken.close()
            except Exception:
                pass
        problem = f"Lock waits in PostgreSQL: the observer cannot ask {target}: {fingerprint.message(str(error))}"
    return {"call": question["call"], "problem": problem}


def main() -> None:
    """Answer questions, one line of JSON each, until standard input ends."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the worker's; this process ends when its input does
    connections: dict[str, Any] = {}
    conninfos: dict[str, str] = {}
    for line in sys.stdin.buffer:
        answer = _reply(connections, conninfos, json.loads(line))
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
