"""How a witness becomes a program of its own.

It begins as a fork of its worker, so that it is there at once. But so it holds the worker's memory: of each page that
the worker writes to from then on there are two. When it has nothing to do for a moment, the process executes a small
program, which goes on where it stopped: on the same line, with the same memories. A worker that is small, or done
before, or whose connection cannot be told to another program, keeps the fork.
"""

from __future__ import annotations

import importlib
import marshal
import os
import socket
import sys
import time
from typing import Any

from msgspec import Struct, msgpack

from jobdoctor.capture.crash_log import CrashLog
from jobdoctor.capture.memory import Memory, map_shared, open_memory
from jobdoctor.capture.outside_stack import own_thread
from jobdoctor.capture.sampler import inherited_bytes
from jobdoctor.model import ProbeStatus
from jobdoctor.rq.witness_link import Setting
from jobdoctor.rq.witness_server import Server

#: Memory of a worker (anonymous, resident) from which on a fork of it comes to hold more than the program takes, which
#: is some 25 MB, most of it redis-py.
WORTHWHILE_BYTES = 48 * 1024 * 1024
_PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "witness_program.py")
#: What the program imports from elsewhere than the standard library.
_PACKAGES = ("jobdoctor", "msgspec", "redis")


class Carried(Struct):
    """What the witness takes along."""

    line: int
    memories: int  # descriptor
    memory_paths: list[str]
    crash_logs: list[tuple[int, str | None] | None]
    server: Server
    worker: str
    queues: list[str]
    worker_pid: int
    told_again: int
    rq_version: str
    probes: list[ProbeStatus]
    thread: int
    left_ns: int


def possible(setting: Setting) -> bool:
    """Whether it pays, there is an interpreter to be executed, and what it needs can be told to it."""
    paths = [memory.path for memory in setting.memories]
    return bool(
        inherited_bytes(setting.worker_pid) >= WORTHWHILE_BYTES
        and (setting.descriptor >= 0 or (paths and all(paths)))
        and sys.executable
        and not getattr(sys, "frozen", False)
        and "PYTHONHOME" not in os.environ
        and os.path.exists(_PROGRAM)
    )


def become(line: socket.socket, setting: Setting, server: Server) -> None:
    """Executes the program. Raises OSError, and nothing has changed, when it cannot be."""
    carried = Carried(
        line=line.fileno(),
        memories=setting.descriptor,
        memory_paths=[memory.path for memory in setting.memories if memory.path],
        crash_logs=[None if log is None else (log.descriptor, log.path) for log in setting.crash_logs],
        server=server,
        worker=setting.worker,
        queues=setting.queues,
        worker_pid=setting.worker_pid,
        told_again=setting.told_again,
        rq_version=setting.rq_version,
        probes=list(setting.probes),
        thread=own_thread(),
        left_ns=time.perf_counter_ns(),
    )
    taken_along = kept_descriptors(line, setting)
    with open(os.memfd_create("jobdoctor-witness"), "r+b", buffering=0) as file:
        file.write(marshal.dumps((_path(), msgpack.encode(carried))))
        file.seek(0)
        taken_along.append(file.fileno())
        for descriptor in taken_along:
            os.set_inheritable(descriptor, True)
        try:
            os.execv(sys.executable, [sys.executable, *_options(), _PROGRAM, str(file.fileno())])  # noqa: S606
        finally:
            for descriptor in taken_along:
                os.set_inheritable(descriptor, False)


def kept_descriptors(line: socket.socket, setting: Setting) -> list[int]:
    """Those that the witness needs."""
    logs = [log.descriptor for log in setting.crash_logs if log is not None]
    return [line.fileno(), *logs, *([setting.descriptor] if setting.descriptor >= 0 else [])]


def _options() -> list[str]:
    """Of the interpreter: nothing of the environment's and no site, whose work ``sys.path`` holds already."""
    options = ["-I", "-S"]
    if sys.dont_write_bytecode:
        options.append("-B")
    if sys.pycache_prefix:
        options += ["-X", f"pycache_prefix={sys.pycache_prefix}"]
    return options


def _path() -> list[str]:
    """Where modules are looked for, with the places of what an import hook has found elsewhere."""
    found = [each for each in sys.path if isinstance(each, str)]
    for name in _PACKAGES:
        origin: Any = importlib.import_module(name).__file__
        place = os.path.dirname(os.path.dirname(os.path.abspath(origin)))
        if place not in found:
            found.append(place)
    return found


def resume(packed: bytes) -> None:
    """In the program: the witness goes on. Returns when it is to end."""
    from jobdoctor.rq.witness import Witness

    carried = msgpack.decode(packed, type=Carried)
    line = socket.socket(fileno=carried.line)
    setting = Setting(
        connection=carried.server.connect(),
        worker=carried.worker,
        queues=carried.queues,
        memories=_memories(carried),
        worker_pid=carried.worker_pid,
        told_again=carried.told_again,
        crash_logs=[None if each is None else CrashLog.inherited(*each) for each in carried.crash_logs],
        descriptor=carried.memories,
        rq_version=carried.rq_version,
        probes=carried.probes,
        thread=carried.thread,
        away_ns=(carried.left_ns, time.perf_counter_ns()),
    )
    for descriptor in kept_descriptors(line, setting):
        os.set_inheritable(descriptor, False)
    Witness(line, setting).run()


def _memories(carried: Carried) -> list[Memory]:
    if carried.memories >= 0:
        return map_shared(carried.memories, len(carried.crash_logs))
    return [open_memory(path) for path in carried.memory_paths]
