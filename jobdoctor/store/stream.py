"""From the stream to the store: entries are added, committed, and only then acknowledged and deleted.

Collectors share one consumer group, so any number of them may run. An entry whose collector died is claimed by another
after a while; the store knows it by its execution's id if the first had already committed it. So each execution is in
the store exactly once.

Collected entries are deleted, so the stream's length is what nobody has collected yet, and its bound (MAXLEN) can only
cut entries that were never read. How many were cut is counted: entries ever added, less those still there, less those
acknowledged. The last figure is kept beside the stream and moved in one step with the acknowledgement. Servers before
Redis 7 do not say how many entries were ever added; there cuts go uncounted.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, OutOfMemoryError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from jobdoctor import wire
from jobdoctor.errors import StreamError
from jobdoctor.model import Execution
from jobdoctor.store import trace
from jobdoctor.store.database import UnstorableError
from jobdoctor.store.store import Loss, Store

#: Entries that could not be read or stored, the newest of them, with the reason: for whoever wants to know why.
DEAD_LETTER_KEY = "jobdoctor:unreadable"
DEAD_LETTER_MAXLEN = 100

#: What has been acknowledged, and a name for this life of the stream.
ACCOUNT_KEY = "jobdoctor:collected"

#: Entries taken at a time: about half a second of SQLite, a megabyte or two of memory.
BATCH = 200

#: An entry that a collector has held for so long without a commit is another one's: a batch takes a second.
STALE_AFTER_S = 60.0

SAMPLES_AGAIN_MS = 60_000

_PAUSE_S = 0.05

#: Acknowledge, delete and count in one step, so that a crash in between cannot falsify the account.
_ACKNOWLEDGE = """
local acked = redis.call('XACK', KEYS[1], ARGV[1], unpack(ARGV, 2))
redis.call('XDEL', KEYS[1], unpack(ARGV, 2))
redis.call('HINCRBY', KEYS[2], 'acked', acked)
return acked
"""


class UnavailableStreamError(StreamError):
    """The server does not answer now: a collector waits and tries again."""


class Batch(NamedTuple):
    """What one step moved. ``taken`` 0: there was nothing to do."""

    taken: int  # entries
    new: int  # executions that are in the store because of it
    repeated: int
    unreadable: int


class Drained(NamedTuple):
    """What came of draining. ``skipped`` says why something stayed on the stream, else it is empty."""

    new: int = 0
    unreadable: int = 0
    lost: int = 0  # entries known to be cut from the stream before anybody read them
    skipped: str = ""


class StreamReader:
    """A member of the collectors' group on one server. Redis errors become StreamError."""

    def __init__(self, store: Store, redis_url: str, *, stale_after_s: float = STALE_AFTER_S) -> None:
        self.store = store
        self.where = shown(redis_url)
        self.consumer = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
        self._stale_ms = max(1, int(stale_after_s * 1000))
        try:
            self._client = redis.Redis.from_url(
                redis_url, socket_connect_timeout=5, socket_timeout=30, retry=Retry(NoBackoff(), 1)
            )
        except ValueError as error:
            raise StreamError(
                f"{self.where} is no Redis URL: {error}", "write it like redis://localhost:6379/0"
            ) from None
        self._joined = False
        self._own_backlog = False  # entries handed to this reader whose commit failed
        self._next_claim_at = 0.0

    def close(self) -> None:
        """Leave the group, unless entries are still ours (then others claim them), and close the connection."""
        try:
            if self._joined and not self._client.xpending_range(
                wire.STREAM_KEY, wire.GROUP, "-", "+", 1, consumername=self.consumer
            ):
                self._client.xgroup_delconsumer(wire.STREAM_KEY, wire.GROUP, self.consumer)
        except RedisError:
            pass
        self._client.close()

    def __enter__(self) -> StreamReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def step(self, *, block_ms: int = 0) -> Batch:
        """Move one batch to the store. ``block_ms``: how long to wait for entries when there are none (0: not at all).

        StreamError or StoreError leave the batch unacknowledged: it is taken again by the next step.
        """
        entries = self._take(block_ms)
        if not entries:
            return Batch(0, 0, 0, 0)
        self._own_backlog = True
        executions: list[tuple[bytes, Execution]] = []
        losses: list[Loss] = []
        rejected: list[tuple[bytes, dict[bytes, bytes], str]] = []
        for entry_id, fields in entries:
            told = wire.lost(fields)
            if told:
                # By the execution: a worker that got no answer writes the same entry twice.
                name = fields.get(b"id", entry_id).decode("utf-8", "replace")
                losses.append(Loss(f"worker:{trace.key(name)}", "worker", told))
            try:
                executions.append((entry_id, wire.decode(fields)))
            except wire.UnreadableEntryError as error:
                rejected.append((entry_id, fields, str(error)))
        new, repeated, refused = self._add(executions, losses, [entry_id for entry_id, _, _ in rejected])
        by_id = dict(entries)
        rejected += [(entry_id, by_id[entry_id], reason) for entry_id, reason in refused]
        self._settle([entry_id for entry_id, _ in entries], rejected)
        self._own_backlog = False
        return Batch(len(entries), new, repeated, len(rejected))

    def backlog(self) -> int:
        """Entries on the stream: not collected, or being collected now."""
        with _Saying(self.where):
            return int(self._client.xlen(wire.STREAM_KEY))

    def count_trimmed(self) -> int:
        """Tell the store how many entries the stream's bound has cut; how many of them were news."""
        with _Saying(self.where):
            trimmed = self._trimmed()
        if not trimmed:
            return 0
        life, total = trimmed
        return self.store.set_lost(f"stream:{life}", total)

    def collect_samples(self) -> int:
        """Bring samples of the queues that are new to the store; how many there were. Read by all collectors, stored
        once: they are known by their moment."""
        newest_ms = self.store.newest_sample_ns() // 1_000_000
        with _Saying(self.where):
            # Clocks of two machines may differ: some that are known come again.
            start = max(0, newest_ms - SAMPLES_AGAIN_MS)
            entries: Any = self._client.xrange(wire.SAMPLES_KEY, min=f"{start}-0", count=wire.SAMPLES_MAXLEN)
        samples = []
        for _, fields in _flat(entries):
            try:
                samples.append(wire.decode_sample(fields))
            except wire.UnreadableEntryError:
                continue
        self.store.add_samples(samples)
        return len(samples)

    # -- taking

    def _take(self, block_ms: int) -> list[tuple[bytes, dict[bytes, bytes]]]:
        with _Saying(self.where):
            try:
                self._join()
                if self._own_backlog:
                    # After a failed commit: what was handed to this reader comes again from its own list.
                    entries = self._read("0", 0)
                    if entries:
                        return entries
                    self._own_backlog = False
                if time.monotonic() >= self._next_claim_at:
                    entries = self._claim()
                    if entries:
                        return entries
                    self._next_claim_at = time.monotonic() + min(5.0, self._stale_ms / 1000)
                return self._read(">", block_ms)
            except ResponseError as error:
                if "NOGROUP" in str(error):  # the server was flushed or lost its data: begin anew
                    self._joined = False
                    return []
                raise

    def _join(self) -> None:
        if self._joined:
            return
        try:
            self._client.xgroup_create(wire.STREAM_KEY, wire.GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
        else:
            info: Any = self._client.xinfo_stream(wire.STREAM_KEY)
            if info.get("max-deleted-entry-id") in (b"0-0", "0-0"):
                # A stream from which nothing was ever collected: an account that is there is of an earlier life.
                self._client.delete(ACCOUNT_KEY)
        self._client.hsetnx(ACCOUNT_KEY, "life", secrets.token_hex(8))
        self._joined = True
        self._next_claim_at = 0.0

    def _read(self, start: str, block_ms: int) -> list[tuple[bytes, dict[bytes, bytes]]]:
        answer: Any = self._client.xreadgroup(
            wire.GROUP, self.consumer, {wire.STREAM_KEY: start}, count=BATCH, block=block_ms or None
        )
        if not answer:
            return []
        streams = answer.values() if isinstance(answer, dict) else [entries for _, entries in answer]
        return [self._filled(entry) for entries in streams for entry in _flat(entries)]

    def _claim(self) -> list[tuple[bytes, dict[bytes, bytes]]]:
        """Entries of collectors that died; nothing when there are none."""
        try:
            answer: Any = self._client.xautoclaim(
                wire.STREAM_KEY, wire.GROUP, self.consumer, self._stale_ms, start_id="0-0", count=BATCH
            )
            return [self._filled(entry) for entry in answer[1] if entry[0] is not None]
        except ResponseError as error:
            if "unknown command" not in str(error).lower():
                raise
        return self._claim_one_by_one()

    def _claim_one_by_one(self) -> list[tuple[bytes, dict[bytes, bytes]]]:
        """The same on servers before 6.2, which have no XAUTOCLAIM."""
        pending: Any = self._client.xpending_range(wire.STREAM_KEY, wire.GROUP, "-", "+", BATCH)
        stale = [one["message_id"] for one in pending if one["time_since_delivered"] >= self._stale_ms]
        if not stale:
            return []
        answer: Any = self._client.xclaim(wire.STREAM_KEY, wire.GROUP, self.consumer, self._stale_ms, stale)
        entries = [self._filled(entry) for entry in answer if entry[0] is not None]
        gone = set(stale) - {entry_id for entry_id, _ in entries}
        present = {entry_id for entry_id in gone if self._client.xrange(wire.STREAM_KEY, entry_id, entry_id)}
        if gone - present:  # cut from the stream while pending: nothing is left to collect
            self._client.xack(wire.STREAM_KEY, wire.GROUP, *(gone - present))
        return entries

    @staticmethod
    def _filled(entry: Any) -> tuple[bytes, dict[bytes, bytes]]:
        return entry[0], entry[1] or {}

    # -- adding

    def _add(
        self, executions: Sequence[tuple[bytes, Execution]], losses: list[Loss], unreadable: list[bytes]
    ) -> tuple[int, int, list[tuple[bytes, str]]]:
        """Add a batch: how many were new, how many known, and which the database refused."""
        losses = losses + [Loss(f"unreadable:{self._name(entry_id)}", "unreadable", 1) for entry_id in unreadable]
        try:
            added = self.store.add([execution for _, execution in executions], losses=losses)
            return added.new, added.repeated, []
        except UnstorableError as error:
            if not executions:
                raise
            if len(executions) == 1:
                entry_id = executions[0][0]
                self._add([], [*losses, Loss(f"unreadable:{self._name(entry_id)}", "unreadable", 1)], [])
                return 0, 0, [(entry_id, str(error))]
        # One of them is poison: halve until it stands alone.
        middle = len(executions) // 2
        first = self._add(executions[:middle], losses, [])
        second = self._add(executions[middle:], [], [])
        return first[0] + second[0], first[1] + second[1], first[2] + second[2]

    def _name(self, entry_id: bytes) -> str:
        """An entry's name among those of all servers."""
        return f"{self.where}:{entry_id.decode()}"

    # -- settling

    def _settle(self, ids: list[bytes], rejected: list[tuple[bytes, dict[bytes, bytes], str]]) -> None:
        with _Saying(self.where):
            for _, fields, reason in rejected:
                letter: Any = {**fields, b"reason": reason[:500].encode("utf-8", "replace")}
                self._client.xadd(DEAD_LETTER_KEY, letter, maxlen=DEAD_LETTER_MAXLEN, approximate=False)
            self._client.eval(_ACKNOWLEDGE, 2, wire.STREAM_KEY, ACCOUNT_KEY, wire.GROUP, *ids)

    def _trimmed(self) -> tuple[str, int] | None:
        """(life of the stream, entries cut in it); None when the server does not count them or there is no stream."""
        pipeline = self._client.pipeline(transaction=True)
        pipeline.xinfo_stream(wire.STREAM_KEY)
        pipeline.xpending(wire.STREAM_KEY, wire.GROUP)
        pipeline.hmget(ACCOUNT_KEY, ["life", "acked"])
        info, pending, (life, acked) = pipeline.execute(raise_on_error=False)
        if isinstance(info, Exception) or isinstance(pending, Exception) or life is None:
            return None
        ever = info.get("entries-added")
        if ever is None:
            return None
        # What is pending may be cut from the stream and still be in a collector's hands: not lost yet.
        return life.decode(), max(0, ever - info["length"] - int(acked or 0) - pending["pending"])


class _Saying:
    """Turn Redis's errors into ours. A class, for its cost and its traceback are a line each."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, AuthenticationError):
            raise StreamError(f"{self.where} refuses to let us in: {_sentence(error)}", "correct --url") from error
        if isinstance(error, RedisConnectionError | RedisTimeoutError):
            raise UnavailableStreamError(f"no server answers at {self.where}", "start it, or give its --url") from error
        if isinstance(error, ReadOnlyError | OutOfMemoryError):
            what = f"{self.where} takes no writes: {_sentence(error)}"
            raise UnavailableStreamError(what, "make room, or give the --url of the primary") from error
        if isinstance(error, RedisError):
            what = f"{self.where}: {_sentence(error)}"
            raise StreamError(what, "check the server, or give another --url") from error


def drain(
    store: Store,
    redis_url: str,
    *,
    progress: Callable[[int, int], None] | None = None,
    stale_after_s: float = STALE_AFTER_S,
    patience_s: float = 3.0,
) -> Drained:
    """Move all that is on the stream to the store. What reader commands do first, so that small set-ups need no
    collector. ``progress`` is told (moved so far, left on the stream).

    When no server answers and the store has data, ``skipped`` says so; StreamError when it is empty. What a running
    collector has in its hands is waited for, for ``patience_s``.
    """
    new = unreadable = moved = lost = 0
    skipped = ""
    with StreamReader(store, redis_url, stale_after_s=stale_after_s) as reader:
        try:
            left = reader.backlog()
            give_up_at = time.monotonic() + patience_s
            while left:
                batch = reader.step()
                new, unreadable, moved = new + batch.new, unreadable + batch.unreadable, moved + batch.taken
                left = reader.backlog()
                if batch.taken:
                    give_up_at = time.monotonic() + patience_s
                    if progress:
                        progress(moved, left)
                elif time.monotonic() >= give_up_at:
                    skipped = f"{left} recordings are in the hands of another collector"
                    break
                elif left:
                    time.sleep(_PAUSE_S)
            if moved:
                lost = reader.count_trimmed()
                reader.collect_samples()
        except StreamError as error:
            if store.is_empty():
                # Where it looked is said: the store may be the wrong one.
                hint = f"{error.next_step}, or name another --store" if error.next_step else "name another --store"
                raise type(error)(f"no recordings in {store.where}, and {error.what}", hint) from error
            skipped = f"recordings on the stream were not collected: {error.what}"
    if new:
        store.prune()
    return Drained(new, unreadable, lost, skipped)


def _flat(entries: Any) -> list[Any]:
    """redis-py nests the entries once more under RESP3 in some versions."""
    return list(entries[0]) if entries and isinstance(entries[0], list) and len(entries) == 1 else list(entries)


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def shown(redis_url: str) -> str:
    """The URL for messages, without user, password and options."""
    scheme, separator, rest = redis_url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2].partition('?')[0]}"
