"""The lock observer's process: answers which session blocks the job's, and with what statement.

One line of JSON in (``prepare`` or a question), one line out for each question. It keeps its database sessions for
``SESSION_IDLE_S`` and ends by itself after ``IDLE_S`` without a question: then it is of no use to anybody, and the next
statement that stands still starts another.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import sys
import time
from typing import Any, Final

from jobdoctor import fingerprint

SESSION_IDLE_S: Final = 30.0
IDLE_S: Final = 600.0
#: Status of a process that ended because nobody asked.
IDLE_STATUS: Final = 75
APPLICATION: Final = "jobdoctor-lock-observer"
#: The module that asks, by the scheme of a target, and the database's name in a message.
BACKENDS: Final = {
    "postgresql": ("jobdoctor.capture.blockers_postgresql", "PostgreSQL"),
    "mysql": ("jobdoctor.capture.blockers_mysql", "MySQL"),
}


class Answers:
    """Keeps a session for each server asked about."""

    def __init__(self) -> None:
        self._sessions: dict[str, Any] = {}
        self._parameters: dict[str, str] = {}

    def prepare(self, server: str, parameters: str) -> None:
        """Import what a question about this server will need."""
        try:
            importlib.import_module(_backend(server)[0]).load(parameters)
        except Exception:  # a question will say it
            pass

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """The answer, or the ``problem`` that keeps it from being given."""
        server = question["server"]
        if "parameters" in question:
            self._parameters[server] = question["parameters"]
        module, name = _backend(server)
        missing = ""
        try:
            backend = importlib.import_module(module)
            missing = backend.Blockers.MISSING
            session = self._sessions.get(server)
            if session is None:
                session = self._sessions[server] = backend.Blockers(self._parameters[server], APPLICATION)
            found = session.look(question["call"], question["sessions"])
            blocked = found["blocked"]
            if blocked is not None:
                statement = blocked["statement"]
                blocked["statement"] = fingerprint.sql(statement).fingerprint if statement else ""
                blocked["application"] = blocked["application"][:200]
            return {"call": question["call"], "at": time.perf_counter_ns(), **found}
        except ImportError:
            problem = f"Lock waits in {name}: {missing}"
        except Exception as error:
            self._close(server)
            problem = f"Lock waits in {name}: the observer cannot ask {server}: {fingerprint.message(str(error))}"
        return {"call": question["call"], "problem": problem}

    def rest(self) -> None:
        """End the database sessions; a next question makes new ones."""
        for server in list(self._sessions):
            self._close(server)

    def _close(self, server: str) -> None:
        session = self._sessions.pop(server, None)
        if session is not None:
            try:
                session.close()
            except Exception:
                pass


def _backend(server: str) -> tuple[str, str]:
    return BACKENDS[server.partition("://")[0]]


def _give_way(giving: bool) -> None:
    """Let the job's own process go first, or not: while the modules are imported, nobody waits for an answer. (A nice
    value could not be taken back.)"""
    try:
        os.sched_setscheduler(0, os.SCHED_BATCH if giving else os.SCHED_OTHER, os.sched_param(0))
    except OSError:
        pass


def main() -> int:
    """Answer until standard input ends, or nobody asks. The process's status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the worker's; this process ends when its input does
    _give_way(True)
    answers = Answers()
    unread = b""
    asked = time.monotonic()
    while True:
        ready, _, _ = select.select([0], [], [], SESSION_IDLE_S)
        if not ready:
            answers.rest()
            if time.monotonic() - asked > IDLE_S:
                return IDLE_STATUS
            continue
        data = os.read(0, 65536)
        if not data:
            return 0
        *lines, unread = (unread + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "prepare" in message:
                answers.prepare(message["prepare"], message["parameters"])
                _give_way(False)
                continue
            asked = time.monotonic()
            os.write(1, json.dumps(answers.answer(message)).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
