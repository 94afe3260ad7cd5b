"""The collector's loop: batch after batch until it is told to stop, through restarts of Redis and of the database."""

from __future__ import annotations

import time
from collections.abc import Callable

from jobdoctor.store.database import UnavailableStoreError
from jobdoctor.store.stream import Batch, StreamReader, UnavailableStreamError

#: First and longest pause before trying again when a server is away.
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 15.0

#: How long one wait for entries lasts: the longest that a signal to stop goes unnoticed.
_BLOCK_MS = 1_000

_SAY_EVERY_S = 5.0
_SAMPLES_EVERY_S = 10.0
_PRUNE_EVERY_S = 600.0

#: What is left on the stream when the collector is told to stop is collected for so long.
_LAST_DRAIN_S = 10.0


class Collector:
    """Moves entries until ``stopped()`` is true. ``say`` gets a line of progress now and then; ``observe`` takes
    a sample of the queues, should nobody else have."""

    def __init__(
        self,
        reader: StreamReader,
        *,
        stopped: Callable[[], bool],
        say: Callable[[str], None],
        observe: Callable[[], None] | None = None,
    ) -> None:
        self._reader = reader
        self._store = reader.store
        self._stopped = stopped
        self._say = say
        self.new = 0
        self.unreadable = 0
        self.lost = 0
        self._said_at = 0.0
        self._unsaid = False
        self._pruned_at: float | None = None
        self._observe = observe
        self._sampled_at = 0.0

    def check(self) -> None:
        """Ask both ends once, so that a wrong URL or a newer schema is an error now and not a wait for ever."""
        self._reader.backlog()
        self._store.is_empty()

    def run(self) -> None:
        """Until stopped, then whatever is still there. StreamError and StoreError when waiting cannot help."""
        pause = _FIRST_PAUSE_S
        while not self._stopped():
            try:
                self._step(_BLOCK_MS)
                self._tidy()
                self._sample()
            except (UnavailableStreamError, UnavailableStoreError) as error:
                if pause == _FIRST_PAUSE_S:
                    self._say(f"waiting: {error.what}")
                self._sleep(pause)
                pause = min(_LONGEST_PAUSE_S, pause * 2)
                self._store.reconnect()
                continue
            if pause > _FIRST_PAUSE_S:
                self._say("back again")
                pause = _FIRST_PAUSE_S
        try:
            self.drain(give_up_after_s=_LAST_DRAIN_S)
        except (UnavailableStreamError, UnavailableStoreError) as error:
            self._say(f"stopped with recordings left on the stream: {error.what}")

    def drain(self, *, give_up_after_s: float = float("inf")) -> None:
        """Everything that is on the stream now."""
        give_up_at = time.monotonic() + give_up_after_s
        while self._step(0).taken and time.monotonic() < give_up_at:
            self._speak()
        self.lost += self._reader.count_trimmed()
        self._reader.collect_samples()
        if self.new:
            self._store.prune()

    def summary(self) -> str:
        """What was collected so far, in a line."""
        parts = [f"{self.new:,} {'recording' if self.new == 1 else 'recordings'} collected"]
        if self.unreadable:
            parts.append(f"{self.unreadable:,} unreadable")
        if self.lost:
            parts.append(f"{self.lost:,} lost before they were read (the stream was full)")
        return ", ".join(parts)

    def _step(self, block_ms: int) -> Batch:
        batch = self._reader.step(block_ms=block_ms)
        self.new += batch.new
        self.unreadable += batch.unreadable
        self._unsaid = self._unsaid or batch.taken > 0
        return batch

    def _tidy(self) -> None:
        if self._unsaid and time.monotonic() - self._said_at >= _SAY_EVERY_S:
            self.lost += self._reader.count_trimmed()
            if self._pruned_at is None or time.monotonic() - self._pruned_at >= _PRUNE_EVERY_S:
                self._store.prune()
                self._pruned_at = time.monotonic()
            self._speak()

    def _sample(self) -> None:
        if time.monotonic() - self._sampled_at >= _SAMPLES_EVERY_S:
            self._sampled_at = time.monotonic()
            if self._observe is not None:
                self._observe()
            self._reader.collect_samples()

    def _speak(self) -> None:
        if time.monotonic() - self._said_at >= _SAY_EVERY_S:
            self._say(self.summary())
            self._said_at = time.monotonic()
            self._unsaid = False

    def _sleep(self, seconds: float) -> None:
        """In short pieces, so that a signal to stop is noticed."""
        until = time.monotonic() + seconds
        while not self._stopped() and time.monotonic() < until:
            time.sleep(min(0.1, seconds))
