"""The witness: a small process beside each worker, which looks at its executions and writes them to the stream.

It is forked once by the worker, before the first horse. It samples the process that runs a job from outside, measures
the payload, ticks the lock observer, and when the worker says that the job is over it reads the recorder's memory,
assembles the execution and sends it, on a connection of its own. The worker does none of that, and never waits for it.

It ends when the worker closes its line, or is gone. A worker that was killed leaves its horse behind, as without us:
the witness stays until that horse is gone, too, and writes what became of the job.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import time
from typing import Any

from msgspec import MsgspecError
from redis.exceptions import RedisError

from jobdoctor import config
from jobdoctor.capture.cgroup import MemoryWatch, groups_of
from jobdoctor.capture.lock_observer import LockObserver
from jobdoctor.capture.profile_policy import ProfilePolicy
from jobdoctor.capture.reference import zero
from jobdoctor.errors import JobdoctorError
from jobdoctor.rq import own_program, queue_observation
from jobdoctor.rq.fleet_profiles import FleetProfiles
from jobdoctor.rq.messages import ENCODER, Answer, Begun, Ended, read
from jobdoctor.rq.slo_record import PromiseRecord
from jobdoctor.rq.stream_writer import StreamWriter
from jobdoctor.rq.watch import ExecutionWatch, Surroundings, horse_descriptor
from jobdoctor.rq.witness_link import Setting
from jobdoctor.rq.witness_server import Server, patience, server_of

#: How long a witness stays a fork of its worker: one that is there for a few jobs only is not worth another program.
FORKED_S = 3.0
#: Between two attempts while the server is away.
RETRY_S = 1.0
#: At its end, how long a witness tries to bring what it has to a server that is away.
LAST_TRIES_S = 3.0
#: After a worker that died: how much longer than the job's timeout its horse may live. RQ itself waits as long.
_MARGIN_S = 60.0
#: Where the kernel has no descriptors for processes, how often to look whether the worker lives.
_LOOK_S = 1.0
#: Where processors are short, the jobs come first.
_NICE = 5
_PACKET_BYTES = 256 * 1024


def main(line: socket.socket, setting: Setting) -> None:
    """What the forked process does; returns when it is to end."""
    _settle(own_program.kept_descriptors(line, setting))
    server = server_of(setting.connection)
    connection = server.connect() if server is not None else _own(setting.connection)
    becomes = server if setting.own_program and own_program.possible(setting) else None
    Witness(line, setting._replace(connection=connection), becomes).run()


def _settle(kept: list[int]) -> None:
    """Lets go of what is the worker's: its descriptors, its signals, its terminal. What the worker built stays where it
    is, untouched: nothing of it is collected or finalised here."""
    gc.freeze()
    os.nice(_NICE)
    os.setpgid(0, 0)  # Ctrl-C, and whoever signals the worker's group, mean the worker
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGALRM, signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    # Replaced rather than closed: objects of the worker's hold these numbers, and closing one of them some day must not
    # close something of ours.
    for descriptor in _descriptors():
        if descriptor != nothing and descriptor not in kept:
            try:
                os.fstat(descriptor)
                os.dup2(nothing, descriptor, inheritable=descriptor <= 2)
            except OSError:
                pass  # the directory's own descriptor
    os.close(nothing)
    try:
        with open("/proc/self/comm", "w", encoding="ascii") as name_file:
            name_file.write("rq-witness")
    except OSError:
        pass


def _descriptors() -> list[int]:
    """Those that may be open: where /proc does not say, all that a process of ordinary limits can have."""
    try:
        return [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        return list(range(4096))


def _own(connection: Any) -> Any:
    """The worker's connection, for this process: redis-py connects anew after a fork."""
    pool = connection.connection_pool
    pool.connection_kwargs.update(patience())
    connection.connection = None  # of a client that holds a single one
    pool.reset()
    return connection


class Witness:
    """The process's work, packet by packet. ``server``: it may become a program of its own, which connects there."""

    def __init__(self, line: socket.socket, setting: Setting, server: Server | None = None) -> None:
        self.line = line
        self.line.setblocking(False)  # recv_fds does not pass its flags on (Python 3.11)
        self.setting = setting
        self.server = server
        self._forked_until_s = time.monotonic() + FORKED_S
        connection = setting.connection
        self.problems: list[tuple[str, str]] = []
        try:
            settings = config.load()
        except JobdoctorError as error:
            self.problems.append(("settings", f"{error}; going on with the defaults"))
            settings = config.Settings()
        self.writer = StreamWriter(connection, maxlen=settings.stream_maxlen)
        self.observer = LockObserver()
        self.profiles = FleetProfiles(connection, ProfilePolicy(settings.profile))
        self.around = Surroundings(
            connection,
            setting.worker,
            setting.queues,
            setting.worker_pid,
            PromiseRecord(connection, settings),
            self.observer,
            MemoryWatch(groups_of()),
            setting.rq_version,
            setting.probes,
            stranger=bool(setting.away_ns[0]),
            thread=setting.thread,
        )
        self.watches: dict[int, ExecutionWatch] = {}
        self._retry_s = 0.0
        self._observe_s = time.monotonic() + queue_observation.EVERY_S
        self._open = True
        self._poll = select.poll()
        self._poll.register(line, select.POLLIN)
        self._worker = horse_descriptor(setting.worker_pid)
        if self._worker >= 0:
            self._poll.register(self._worker, select.POLLIN)

    def run(self) -> None:
        """Until the worker has closed its line, or is gone."""
        with _quietly(self, "profiles"):
            self.profiles.load()
        self._answer(0, {job: self.profiles.policy.wants(job) for job in self.profiles.policy.jobs})
        while self._open:
            gone, told = self._wait()
            if told or gone:
                self._receive()
            if gone:
                break
            self._tick()
        for watch in list(self.watches.values()):
            self._outlive(watch)
        self._end()

    # -- waiting

    def _wait(self) -> tuple[bool, bool]:
        """Until there is something to do: whether the worker is gone, and whether it has said something."""
        due = [watch.due_s() for watch in self.watches.values()]
        if self.writer.waiting:
            due.append(max(0.0, self._retry_s - time.monotonic()))
        if self.profiles.due_s is not None:
            due.append(max(self.profiles.due_s, self._retry_s - time.monotonic()))
        if self._worker < 0:
            due.append(_LOOK_S)
        if self.server is not None and not due:
            due.append(max(0.0, self._forked_until_s - time.monotonic()))
        due.append(max(0.0, max(self._observe_s, self._retry_s) - time.monotonic()))
        ready = [descriptor for descriptor, _ in self._poll.poll(min(due) * 1000)]
        gone = self._worker in ready if self._worker >= 0 else os.getppid() != self.setting.worker_pid
        return gone, self.line.fileno() in ready

    def _tick(self) -> None:
        for watch in self.watches.values():
            if watch.due_s() <= 0:
                watch.tick()
        if time.monotonic() < self._retry_s:
            return
        if self.writer.waiting:
            self._flush()
        due_s = self.profiles.due_s
        if due_s is not None and due_s <= 0:
            self._write_profiles()
        if time.monotonic() >= self._observe_s:
            self._observe_s = time.monotonic() + queue_observation.EVERY_S
            with _quietly(self, "queues"):
                queue_observation.observe(self.around.connection)
        if self.server is not None and not self.watches and time.monotonic() >= self._forked_until_s:
            self._become_program(self.server)

    def _write_profiles(self) -> None:
        with _quietly(self, "profiles"):
            changed = self.profiles.write()
            self._answer(0, {job: self.profiles.policy.wants(job) for job in changed})

    def _become_program(self, server: Server) -> None:
        """Goes on as a program of its own, when nothing is left that would be lost."""
        if self.profiles.due_s is not None:
            self._write_profiles()
        if self.profiles.due_s is not None or self.writer.waiting or self.writer.lost:
            self._forked_until_s = time.monotonic() + RETRY_S
            return
        self.server = None  # once: where it cannot be, it stays as it is
        self.observer.close()
        if self.problems:
            self._answer(0, {})
        with _quietly(self, "own program"):
            own_program.become(self.line, self.setting, server)

    def _flush(self) -> None:
        if not self.writer.flush():
            self._retry_s = time.monotonic() + RETRY_S

    # -- packets

    def _receive(self) -> None:
        """All packets that are there."""
        while self._open:
            try:
                packet, descriptors, _, _ = socket.recv_fds(self.line, _PACKET_BYTES, 1)
            except BlockingIOError:
                return
            except OSError:
                packet, descriptors = b"", []
            if not packet:
                self._open = False
                return
            with _quietly(self, "packet"):
                self._take(packet, descriptors)

    def _take(self, packet: bytes, descriptors: list[int]) -> None:
        data = _contents(descriptors)
        message = read(packet)
        if isinstance(message, Begun):
            buffer = self.setting.memories[message.memory].buffer if message.memory >= 0 else None
            ask = time.monotonic() >= self._retry_s
            crash_log = self.setting.crash_logs[message.memory] if buffer is not None else None
            watch = ExecutionWatch(message, data or message.data, buffer, crash_log, self.around, ask=ask)
            if message.number <= self.setting.told_again:
                watch.missing.append("Samples from its beginning: the witness died, and another one took its place")
            left_ns, back_ns = self.setting.away_ns
            if left_ns <= message.perf_ns < back_ns:
                watch.missing.append("Samples from its beginning: the witness was starting its own program")
            self.watches[message.number] = watch
            if watch.due_s() <= 0:
                watch.tick()
        elif isinstance(message, Ended):
            ended = self.watches.pop(message.number, None)
            if ended is not None:
                self._write(ended, message)
        else:
            self.writer.lost += message.executions

    def _write(self, watch: ExecutionWatch, ended: Ended | None) -> None:
        """The execution goes to the stream, its memory is made ready for the next, and the worker is told."""
        begun = watch.begun
        profiles: dict[str, bool] = {}
        try:
            execution = watch.finish(ended)
            self.problems += [("witness", problem) for problem in watch.guard.problems]
            if time.monotonic() < self._retry_s:
                self.writer.hold(execution)
            elif self._written_before(begun):
                pass
            elif not self.writer.write(execution):
                self._retry_s = time.monotonic() + RETRY_S
                self.problems.append(("stream", self.writer.problem))
            else:
                with _quietly(self, "slo"):
                    self.around.promises.count(execution, exempt=watch.exempt)
            self.profiles.count(watch.job, execution.run_ns, profiled=bool(begun.profile_path))
            profiles[watch.job] = self.profiles.policy.wants(watch.job)
        except Exception as error:
            self.problems.append(("finish", f"{type(error).__name__}: {error}"))
            self.writer.lost += 1
        finally:
            if watch.buffer is not None:
                _clear(watch.buffer)
            self._answer(begun.number, profiles)

    def _written_before(self, begun: Begun) -> bool:
        """Whether the witness that died had come to write it."""
        if begun.number > self.setting.told_again:
            return False
        with _quietly(self, "stream"):
            return self.writer.has(begun.execution_id)
        return False

    def _answer(self, number: int, profiles: dict[str, bool]) -> None:
        answer = Answer(number, self.writer.waiting, self.profiles.policy.mode, profiles, self.problems[:20])
        self.problems = []
        try:
            self.line.send(ENCODER.encode(answer))
        except OSError:
            pass  # nobody listens any more

    # -- the end

    def _outlive(self, watch: ExecutionWatch) -> None:
        """The worker died while this execution ran: wait until the process that runs it is gone, too."""
        begun = watch.begun
        if begun.kind != "simple":
            until = None
            if begun.timeout_s is not None:
                ran_s = (time.perf_counter_ns() - begun.dequeued_ns) / 1e9
                until = time.monotonic() + max(0.0, begun.timeout_s - ran_s) + _MARGIN_S
            horse = horse_descriptor(begun.pid)
            if horse >= 0:
                waiter = select.poll()
                waiter.register(horse, select.POLLIN)
                while not waiter.poll(watch.due_s() * 1000) and (until is None or time.monotonic() < until):
                    watch.tick()
                os.close(horse)
        self._write(watch, None)

    def _end(self) -> None:
        """Brings away what is left, and removes files that nobody else will."""
        until = time.monotonic() + LAST_TRIES_S
        while self.writer.waiting and not self.writer.flush() and time.monotonic() < until:
            time.sleep(0.1)
        if self.profiles.due_s is not None and not self.writer.waiting:
            with _quietly(self, "profiles"):
                self.profiles.write()
        self.observer.close()
        for memory in self.setting.memories:
            memory.close()
        for crash_log in self.setting.crash_logs:
            if crash_log is not None:
                crash_log.remove()


class _quietly:  # noqa: N801 -- reads as a word
    """What fails inside is said to the worker, which logs it."""

    def __init__(self, witness: Witness, what: str) -> None:
        self._witness = witness
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if isinstance(error, (Exception, RedisError, MsgspecError)):
            self._witness.problems.append((self._what, f"{type(error).__name__}: {error}"))
            return True
        return False


def _contents(descriptors: list[int]) -> bytes:
    """What a memory file that came with a packet holds."""
    data = b""
    for descriptor in descriptors:
        with open(descriptor, "rb") as file:
            data = os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0)
    return data


def _clear(buffer: Any) -> None:
    """Zeros, as in new memory: the next horse then has nothing to clear."""
    zero(buffer)
