"""The state of all queues and workers as Redis has it now: read-only, and bounded whatever is in there.

Commands are O(queues + workers): lengths, the first job of each queue, sizes of registries, hashes of workers. No queue
is read through. RQ itself is not imported, so that a witness can look, too.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct, field

PREFIX = os.environ.get("RQ_KEY_PREFIX", "rq")
#: Queues and workers looked at, at most; by name, so that it is the same ones each time.
MOST_QUEUES = 200
MOST_WORKERS = 1_000
MOST_LIMITS = 200
_NO_KEY = -2  # PTTL's answer


class QueueState(Struct, frozen=True):
    """A queue. ``oldest_at_ns``: since when its first job is in it; None: it is empty, or that job is gone."""

    name: str
    depth: int
    oldest_at_ns: int | None = None
    started: int = 0
    scheduled: int = 0
    deferred: int = 0


class WorkerState(Struct, frozen=True):
    """A worker, by its own word."""

    name: str
    queues: list[str]  # in its order
    state: str = ""  # "idle", "busy", "suspended", "started"
    heartbeat_ns: int = 0  # 0: never
    birth_ns: int = 0
    host: str = ""
    pid: int = 0
    executions: int = 0  # that it has begun and not ended
    current_job_id: str = ""  # of one of them
    ttl_s: float | None = None  # until RQ forgets it, if it gives no sign of life


class QueuesState(Struct, frozen=True):
    """All of it. ``left_out``: queues and workers beyond the bounds."""

    at_ns: int
    queues: list[QueueState]
    workers: list[WorkerState]
    suspended: bool = False
    left_out: list[int] = field(default_factory=lambda: [0, 0])
    gone: list[str] = field(default_factory=list)  # workers that RQ still lists, and nothing else is there of
    held: dict[str, int] = field(default_factory=dict)  # jobs that wait for a rate limit, in no queue, by its key


def read(connection: Any) -> QueuesState:
    """Three round trips. Raises what the client raises."""
    now_ns = time.time_ns()
    with connection.pipeline(transaction=False) as pipeline:
        pipeline.smembers(f"{PREFIX}:queues")
        pipeline.smembers(f"{PREFIX}:workers")
        pipeline.exists(f"{PREFIX}:suspended")
        pipeline.smembers(f"{PREFIX}:rl-keys")  # RQ 3's rate limits
        queue_keys, worker_keys, suspended, limits = pipeline.execute()
    names = sorted(_text(key).removeprefix(f"{PREFIX}:queue:") for key in queue_keys)
    workers = sorted(_text(key).removeprefix(f"{PREFIX}:worker:") for key in worker_keys)
    left_out = [max(0, len(names) - MOST_QUEUES), max(0, len(workers) - MOST_WORKERS)]
    names, workers = names[:MOST_QUEUES], workers[:MOST_WORKERS]
    with connection.pipeline(transaction=False) as pipeline:
        for name in workers:
            pipeline.hmget(
                f"{PREFIX}:worker:{name}",
                "queues", "state", "last_heartbeat", "birth", "hostname", "pid", "current_job", "death",
            )  # fmt: skip
            pipeline.srandmember(f"{PREFIX}:worker:{name}:executions", 2)
            pipeline.pttl(f"{PREFIX}:worker:{name}")
        limits = sorted(map(_text, limits))[:MOST_LIMITS]
        for limit in limits:
            pipeline.zcard(f"{PREFIX}:rl:{limit}:rate_limited")
        told = pipeline.execute(raise_on_error=False)
    waiting = told[len(told) - len(limits) :]
    held = {limit: number for limit, number in zip(limits, waiting, strict=True) if isinstance(number, int) and number}
    del told[len(told) - len(limits) :]
    seen = [_worker(name, *told[3 * index : 3 * index + 3]) for index, name in enumerate(workers)]
    gone = [name for name, left in zip(workers, told[2::3], strict=True) if left == _NO_KEY]
    alive = [worker for worker in seen if worker is not None]
    # RQ knows a queue from its first job on; one that workers listen to is there before that.
    names = sorted({*names, *(queue for worker in alive for queue in worker.queues)})[:MOST_QUEUES]
    return QueuesState(now_ns, _queues(connection, names), alive, bool(suspended), left_out, gone, held)


def _queues(connection: Any, names: list[str]) -> list[QueueState]:
    with connection.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.llen(f"{PREFIX}:queue:{name}")
            pipeline.lindex(f"{PREFIX}:queue:{name}", 0)
            for registry in ("wip", "scheduled", "deferred"):
                pipeline.zcard(f"{PREFIX}:{registry}:{name}")
        told = pipeline.execute(raise_on_error=False)
    first = {name: told[5 * index + 1] for index, name in enumerate(names) if isinstance(told[5 * index + 1], bytes)}
    with connection.pipeline(transaction=False) as pipeline:
        for job_id in first.values():
            pipeline.hmget(f"{PREFIX}:job:{_text(job_id)}", "enqueued_at", "created_at")
        moments = dict(zip(first, pipeline.execute(raise_on_error=False), strict=True))
    found = []
    for index, name in enumerate(names):
        depth, _, started, scheduled, deferred = (
            value if isinstance(value, int) else 0 for value in told[5 * index : 5 * index + 5]
        )
        moment = moments.get(name)
        oldest = next((at for at in map(instant_ns, moment) if at), None) if isinstance(moment, list) else None
        found.append(QueueState(name, depth, oldest, started, scheduled, deferred))
    return found


def _worker(name: str, values: Any, executions: Any, left_ms: Any) -> WorkerState | None:
    if not isinstance(values, list) or values[0] is None or values[7] is not None:
        return None  # it is gone, and its name stayed behind; or it has said farewell
    queues, state, _, _, host, pid, current, _ = (_text(value) for value in values)
    running = [_text(each) for each in executions] if isinstance(executions, list) else []
    return WorkerState(
        name=name,
        queues=[queue for queue in queues.split(",") if queue],
        state=state,
        heartbeat_ns=instant_ns(values[2]),
        birth_ns=instant_ns(values[3]),
        host=host,
        pid=int(pid) if pid.isdigit() else 0,
        executions=len(running),
        # RQ 2 writes the job's id; RQ 3 has a set of "<job id>:<execution id>".
        current_job_id=running[0].rpartition(":")[0] if running else current,
        ttl_s=left_ms / 1_000 if isinstance(left_ms, int) and left_ms >= 0 else None,
    )


def instant_ns(value: Any) -> int:
    """An instant as RQ writes it, in ns since the epoch; 0 for anything else."""
    text = _text(value)
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return 0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1_000_000) * 1_000


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else ""
