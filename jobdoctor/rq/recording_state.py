"""What a worker process keeps from job to job: the recorder's memory, the way to the stream, the settings."""

from __future__ import annotations

import atexit
import logging
import os
from typing import Any

from jobdoctor import config
from jobdoctor.capture import recorder
from jobdoctor.capture.lock_observer import LockObserver
from jobdoctor.capture.memory import memory_path, open_memory, remove_stale
from jobdoctor.capture.stack_profile import ProfilePolicy
from jobdoctor.errors import JobdoctorError
from jobdoctor.rq.stream_writer import StreamWriter

logger = logging.getLogger("jobdoctor")


class WorkerState:
    """Made at a worker's first job, in its own process."""

    def __init__(self, connection: Any, *, spawns: bool) -> None:
        self.pid = os.getpid()
        self.spawns = spawns
        try:
            settings = config.load()
        except JobdoctorError as error:
            logger.warning("jobdoctor: %s; going on with the defaults", error)
            settings = config.Settings()
        self.slos_ms = dict(settings.slo_ms)
        self.profiles = ProfilePolicy(settings.profile)
        # A forked horse shares the memory; a spawned one has to find it by its path.
        self.memory = open_memory(memory_path() if spawns else None)
        if spawns:
            atexit.register(self._remove_file)
            remove_stale()
        recorder.calibrate()
        self.recorder = recorder.Recorder(self.memory.buffer)
        self.observer = LockObserver()
        self.writer = StreamWriter(connection, maxlen=settings.stream_maxlen)

    def _remove_file(self) -> None:
        if self.memory.path is not None and os.getpid() == self.pid:
            self.memory.close()
