"""What a worker and its witness tell each other: one packet of msgpack for each message, over a socket pair.

What is to be said of an execution is put into words before its process is forked, when the worker's memory is not yet a
copy; what is known only then stands before it in the packet.
"""

from __future__ import annotations

import struct

from msgspec import Struct, field, msgpack

from jobdoctor.model import Route, Trigger, WorkerKind

#: Data of a job up to this size travels within the message; more of it in a memory file beside the message.
INLINE_BYTES = 16 * 1024
#: Data beyond this is not copied for the witness: its size is known, its parts are not.
COPIED_BYTES = 32 * 1024 * 1024


#: The name of a job whose data cannot be read by its serializer.
UNDESERIALIZABLE = "(undeserializable)"


class Begun(Struct, array_like=True, tag="begun"):
    """A job was taken, and its process runs. Instants as in ``capture.assemble``."""

    number: int  # of the execution, within this worker
    memory: int  # index of the recorder's memory; -1: there was none free
    execution_id: str
    kind: WorkerKind
    epoch_ns: int
    perf_ns: int
    dequeued_ns: int
    job_id: str
    job_key: str
    job: str  # its name
    queue: str
    queue_key: str
    serializer: str
    data: bytes
    data_bytes: int  # -1: the worker does not have the data
    profile_path: str
    attempt: int
    max_retries: int | None
    retries_left: int | None
    intervals_s: list[int]
    created_at_ns: int
    enqueued_at_ns: int
    scheduled: bool
    route: Route
    depends_on: list[str]
    timeout_s: float | None
    failure_ttl_s: int | None
    result_ttl_s: int | None
    trigger: Trigger
    # See ``started``:
    forked_ns: int = 0
    forked_done_ns: int = 0
    pid: int = 0  # the process that runs the job


class Ended(Struct, array_like=True, tag="ended"):
    """The worker is done with an execution."""

    number: int
    reaped_ns: int
    exited_ns: int
    status: int | None
    rusage: list[int | float]  # user and system seconds, then maxrss, faults, switches and blocks; empty: not known
    outcome: str  # what the worker says of it; empty: the horse knows
    killed_by_us: str
    own_cpu_ns: int | None
    overhead_ns: int
    problems: list[str]


class Lost(Struct, array_like=True, tag="lost"):
    """Recordings that went with a witness which died, or for which there was no room on the way to it."""

    executions: int


class Answer(Struct, array_like=True):
    """The witness's word, after each execution and once when it is ready."""

    number: int  # the execution that is dealt with; 0: none
    held: int  # recordings that wait for the server
    mode: str  # of profiles: auto, always or never
    profiles: dict[str, bool] = field(default_factory=dict)  # what changed: is a job's next execution to be profiled?
    problems: list[tuple[str, str]] = field(default_factory=list)  # what failed there, and how


_STARTED = struct.Struct("<c3q")
_MARK = b"\xc1"  # no message of msgpack begins so
_MESSAGES: msgpack.Decoder[Begun | Ended | Lost] = msgpack.Decoder(Begun | Ended | Lost)


def started(begun: bytes, pid: int, forked_ns: int, forked_done_ns: int) -> bytes:
    """The packet of an encoded ``Begun`` whose process now runs."""
    return _STARTED.pack(_MARK, pid, forked_ns, forked_done_ns) + begun


def read(packet: bytes) -> Begun | Ended | Lost:
    """What a worker says. Raises MsgspecError."""
    if not packet.startswith(_MARK):
        return _MESSAGES.decode(packet)
    message = _MESSAGES.decode(memoryview(packet)[_STARTED.size :])
    if isinstance(message, Begun):
        _, message.pid, message.forked_ns, message.forked_done_ns = _STARTED.unpack_from(packet)
    return message


ENCODER = msgpack.Encoder()
ANSWERS = msgpack.Decoder(Answer)
