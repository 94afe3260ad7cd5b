"""What a worker process keeps from job to job: the recorder's memories, and the line to its witness."""

from __future__ import annotations

import os
import socket
import weakref
from typing import Any

from rq.version import VERSION

from jobdoctor.capture import recorder
from jobdoctor.capture.crash_log import CrashLog, crash_path
from jobdoctor.capture.layout import HEADER_BYTES
from jobdoctor.capture.memory import Memory, memory_path, open_memory, open_shared, remove_stale
from jobdoctor.rq import ptracer
from jobdoctor.rq.guard import log
from jobdoctor.rq.horse import Horse
from jobdoctor.rq.probing import probe_statuses
from jobdoctor.rq.witness_link import Setting, WitnessLink

#: Memories that are used in turn: one that a horse writes, and those that the witness has still to read. A witness that
#: is short of a processor may be some jobs behind; only pages that were written take room.
MEMORIES = 8


class WorkerState:
    """Made before a worker's first job, in its own process."""

    def __init__(self, worker: Any, *, spawns: bool) -> None:
        self.pid = os.getpid()
        self.spawns = spawns
        # A forked horse shares the memory; a spawned one has to find it by its path.
        self.memories: list[Memory]
        self.memories, descriptor = (
            ([open_memory(memory_path()) for _ in range(MEMORIES)], -1) if spawns else open_shared(MEMORIES)
        )
        self.crash_logs = [_crash_log(memory.path) for memory in self.memories]
        if spawns:
            remove_stale()
        recorder.calibrate()
        # Made here, where it costs no job anything: what a forked horse does with its own stays in the horse.
        self.horses = [] if spawns else [Horse(recorder.Recorder(memory.buffer)) for memory in self.memories]
        for memory in self.memories:
            memory.buffer[:HEADER_BYTES] = bytes(HEADER_BYTES)  # nothing is recorded there yet
        self.names_witness = ptracer.prepare()
        queues = [queue.name for queue in worker.queues]
        self.link = WitnessLink(
            worker.connection, worker.name, queues, self.memories, _witness, self.crash_logs, descriptor
        )
        # For workers that are given up without having been told to end; at the latest when the interpreter exits.
        self._at_end = weakref.finalize(worker, _end, self.link, self.horses)
        self.link.start()

    def close(self) -> None:
        """The witness writes what it has, and ends."""
        self._at_end()
        self.log_problems()

    def log_problems(self) -> None:
        """What failed in the witness is said where the worker's log is read."""
        for what, problem in self.link.heard():
            log(what, problem.partition(":")[0], f"{what}: {problem}")


def _crash_log(memory_path: str | None) -> CrashLog | None:
    """Where the horses of a memory write the stack of a fault; None where no such file can be made."""
    try:
        return CrashLog(crash_path(memory_path) if memory_path is not None else None)
    except OSError as error:
        log("crash log", type(error).__name__, f"faults of native code leave no stack: {error}")
        return None


def _witness(line: socket.socket, setting: Setting) -> None:
    from jobdoctor.rq import witness  # in its process only: the worker needs nothing of what this imports

    witness.main(line, setting._replace(rq_version=VERSION, probes=probe_statuses()))


def _end(link: WitnessLink, horses: list[Horse]) -> None:
    if os.getpid() != link.owner:
        return
    link.close()
    for horse in horses:
        horse.recorder.release()
    for memory in link.memories:
        memory.close()
    for crash_log in link.crash_logs:
        if crash_log is not None:
            crash_log.close()
    link.close_memories()
