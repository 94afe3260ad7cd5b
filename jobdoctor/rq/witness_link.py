"""The worker's end of the line to its witness, the process that looks at executions and writes them to the stream.

Nothing here waits for the witness, but for a moment when every recorder's memory is still being read. Packets that do
not fit the socket wait here for the next job; a witness that died is started anew and told again what it had not dealt
with. What is lost all the same is counted, and the next recording says how many.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jobdoctor.capture.crash_log import CrashLog
from jobdoctor.capture.memory import Memory
from jobdoctor.model import ProbeStatus
from jobdoctor.rq.messages import ANSWERS, COPIED_BYTES, ENCODER, INLINE_BYTES, Answer, Begun, Ended, Lost, started

#: Starts of a witness within this time, beyond which something is wrong with it and nothing is recorded for a while.
STARTS = 4
STARTS_WITHIN_S = 60.0
#: Witnesses of a worker that may become programs of their own. Should that be what they die of, the next ones do not.
OWN_PROGRAMS = 2
#: How long a job may wait for a memory that the witness is reading.
MEMORY_PATIENCE_S = 0.003
#: How long the worker waits at its end for what is still to be written.
CLOSE_PATIENCE_S = 5.0
#: Executions that a witness has not dealt with, beyond which the oldest is given up.
OPEN = 64
_PACKET_BYTES = 64 * 1024


class Setting(NamedTuple):
    """What the witness inherits from its worker."""

    connection: Any
    worker: str
    queues: list[str]
    memories: Sequence[Memory]
    worker_pid: int
    told_again: int  # executions up to this number were told to a witness that died
    crash_logs: Sequence[CrashLog | None] = ()  # of the memories
    descriptor: int = -1  # of all memories; -1: they have none
    rq_version: str = ""
    probes: Sequence[ProbeStatus] = ()
    own_program: bool = False  # a fork that is to become a program of its own, see ``own_program``
    # In that program:
    thread: int = 0  # see ``capture.outside_stack``
    away_ns: tuple[int, int] = (0, 0)  # when it could not look, by the performance counter


class _Sent:
    """An execution that the witness has not dealt with."""

    __slots__ = ("again", "begun", "data", "ended", "memory")

    def __init__(self, memory: int, begun: bytes, data: bytes) -> None:
        self.memory = memory
        self.begun = begun
        self.data = data
        self.ended = b""
        self.again = False


class WitnessLink:
    """One for each worker process. ``main`` is what the witness does, in the process that is forked for it."""

    def __init__(
        self,
        connection: Any,
        worker: str,
        queues: list[str],
        memories: Sequence[Memory],
        main: Callable[[socket.socket, Setting], None],
        crash_logs: Sequence[CrashLog | None] = (),
        descriptor: int = -1,
    ) -> None:
        self.owner = os.getpid()
        self.pid = 0  # of the witness; 0: there is none
        #: Of profiles. Empty: not known before the witness has read the settings; no job waits for that.
        self.mode = os.environ.get("JOBDOCTOR_PROFILE", "").strip()
        self.held = 0  # recordings in the witness that wait for the server
        self.lost = 0  # not told yet
        self._said: list[tuple[str, str]] = []
        self.memories = memories
        self.crash_logs = crash_logs
        self._profiles: dict[str, bool] = {}
        self._main = main
        self._setting = Setting(connection, worker, queues, memories, self.owner, 0, crash_logs, descriptor)
        self._socket: socket.socket | None = None
        self._starts: deque[float] = deque(maxlen=STARTS)
        self._started = 0
        self._number = 0
        self._free = list(range(len(memories)))
        self._announced: tuple[int, _Sent] = (0, _Sent(-1, b"", b""))
        self._open: dict[int, _Sent] = {}
        self._unsent: deque[tuple[bytes, bytes]] = deque()

    # -- life

    def start(self) -> bool:
        """Fork the witness. False: it was started too often of late."""
        now = time.monotonic()
        if len(self._starts) == STARTS and now - self._starts[0] < STARTS_WITHIN_S:
            return False
        self._starts.append(now)
        self._started += 1
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if not pid:
            try:
                again = self._started <= OWN_PROGRAMS
                self._main(theirs, self._setting._replace(told_again=self._number, own_program=again))
            finally:
                os._exit(0)
        theirs.close()
        ours.setblocking(False)
        self._socket, self.pid = ours, pid
        return True

    def close(self, patience_s: float = CLOSE_PATIENCE_S) -> None:
        """Let the witness write what it has, and end it. Does nothing in a forked process, or the second time."""
        if os.getpid() != self.owner or self._socket is None:
            return
        deadline = time.monotonic() + patience_s
        while self._flush() and self._unsent and time.monotonic() < deadline:
            self._wait(select.POLLOUT, 0.05)
        self._hang_up()
        while self._receive() and time.monotonic() < deadline:
            self._wait(select.POLLIN, max(0.0, deadline - time.monotonic()))
        self._reap(kill=self._socket is not None)

    def close_memories(self) -> None:
        """After the end, in the worker: the memories' descriptor is closed, too."""
        if self._setting.descriptor >= 0:
            os.close(self._setting.descriptor)
            self._setting = self._setting._replace(descriptor=-1)

    def _hang_up(self) -> None:
        """The witness reads an end, whoever else has inherited this socket."""
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # it is gone

    def _reap(self, *, kill: bool) -> None:
        """The process is gone, or has to go."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        pid, self.pid = self.pid, 0
        if not pid:
            return
        try:
            if kill:
                os.kill(pid, 9)
            os.waitpid(pid, 0)
        except (ChildProcessError, ProcessLookupError):
            pass  # somebody waited for all children

    # -- executions

    def next_number(self) -> int:
        """The number of the next execution; 0: nothing can be recorded, because there is no witness."""
        if os.getpid() != self.owner:
            return 0
        self._receive()
        if self._socket is None and not self._revive():
            self.lost += 1
            return 0
        self._number += 1
        return self._number

    def take_memory(self) -> int:
        """A recorder's memory that nobody uses, as its index; -1 when there is none, even after a moment."""
        if not self._free and self._open:
            self._wait(select.POLLIN, MEMORY_PATIENCE_S)
            self._receive()
        return self._free.pop() if self._free else -1

    def announce(self, message: Begun) -> None:
        """An execution is about to begin."""
        data, message.data = message.data, b""
        if len(data) <= INLINE_BYTES:
            message.data, data = data, b""
        elif len(data) > COPIED_BYTES:
            data = b""
        self._announced = message.number, _Sent(message.memory, ENCODER.encode(message), data)

    def begin(self, number: int, pid: int, forked_ns: int = 0, forked_done_ns: int = 0) -> None:
        """The execution that was announced runs."""
        announced, sent = self._announced
        if announced != number:
            return
        sent.begun = started(sent.begun, pid, forked_ns, forked_done_ns)
        self._open[number] = sent
        if len(self._open) > OPEN:
            self._give_up(next(iter(self._open)))
        self._unsent.append((sent.begun, sent.data))
        self._flush()

    def end(self, message: Ended) -> None:
        """The worker is done with it."""
        sent = self._open.get(message.number)
        if sent is None:
            return
        sent.ended = ENCODER.encode(message)
        self._unsent.append((sent.ended, b""))
        self._flush()

    def wants_profile(self, job: str) -> bool:
        """Whether the job's next execution is to be profiled."""
        if self.mode != "auto":
            return self.mode == "always"
        wanted = self._profiles.get(job, True)
        self._profiles[job] = False  # until the witness has seen what it cost
        return wanted

    def heard(self) -> list[tuple[str, str]]:
        """What failed in the witness since this was last asked: (where, what)."""
        if os.getpid() == self.owner:
            self._receive()
        said, self._said = self._said, []
        return said

    # -- packets

    def _wait(self, event: int, seconds: float) -> None:
        if self._socket is not None:
            waiter = select.poll()
            waiter.register(self._socket, event)
            waiter.poll(seconds * 1000)

    def _receive(self) -> bool:
        """Reads what the witness says; false when it is gone."""
        while self._socket is not None:
            try:
                packet = self._socket.recv(_PACKET_BYTES)
            except BlockingIOError:
                return True
            except ConnectionResetError:
                continue  # it died with packets unread: said once, and then what it had answered before is there
            except OSError:
                packet = b""
            if not packet:
                self._reap(kill=True)
                return False
            self._hear(ANSWERS.decode(packet))
        return False

    def _hear(self, answer: Answer) -> None:
        self.mode = answer.mode
        self.held = answer.held
        self._profiles.update(answer.profiles)
        self._said = [*self._said, *answer.problems][:20]
        self._done(answer.number)

    def _done(self, number: int) -> None:
        sent = self._open.pop(number, None)
        if sent is not None and sent.memory >= 0:
            self._free.append(sent.memory)

    def _give_up(self, number: int) -> None:
        """The memory is not used again: the witness may still read it."""
        sent = self._open.pop(number)
        self._unsent = deque(packet for packet in self._unsent if packet[0] not in (sent.begun, sent.ended))
        self.lost += 1

    def _flush(self) -> bool:
        """Sends what waits; false when there is no witness to take it."""
        while self._unsent:
            if self._socket is None and not self._revive():
                return False
            try:
                self._send(*self._unsent[0])
            except BlockingIOError:
                return True
            except OSError:
                if self._receive():  # what it has dealt with, before another one is told
                    self._reap(kill=True)
                continue
            self._unsent.popleft()
        return True

    def _send(self, packet: bytes, data: bytes) -> None:
        assert self._socket is not None
        if not data:
            self._socket.send(packet)
            return
        with open(os.memfd_create("jobdoctor-payload"), "r+b", buffering=0) as file:
            file.write(data)
            socket.send_fds(self._socket, [packet], [file.fileno()])

    def _revive(self) -> bool:
        """Another witness for one that died, told what is open. An execution that it is told twice is given up: it may
        be what it dies of."""
        self.lost += self.held
        self.held = 0
        for number, sent in list(self._open.items()):
            if sent.again:
                self._done(number)
                self.lost += 1
            sent.again = True
        self._unsent.clear()
        if not self.start():
            return False
        if self.lost:
            self._unsent.append((ENCODER.encode(Lost(self.lost)), b""))
            self.lost = 0
        for sent in self._open.values():
            self._unsent.append((sent.begun, sent.data))
            if sent.ended:
                self._unsent.append((sent.ended, b""))
        return True
