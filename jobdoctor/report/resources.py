"""CPU and memory of one work horse over time, as its parent read them from outside."""

from __future__ import annotations

from msgspec import Struct

from jobdoctor import words
from jobdoctor.model import Execution

#: Points of a line: more than a screen has pixels for say nothing.
MOST_POINTS = 600


class Resources(Struct, frozen=True):
    """Columns: an entry is about the time since the entry before it, in microseconds from the dequeue."""

    from_us: int  # the first sample
    at_us: list[int]
    cores: list[float]  # CPUs in use
    waiting: list[float]  # CPUs' worth of time runnable, but not running
    rss_bytes: list[int]  # the most in that time
    blocked_in: list[str]  # what it was seen waiting for, "" when it ran
    baseline_rss_bytes: int  # inherited at the fork, 0 when not known

    @property
    def peak_rss_bytes(self) -> int:
        """The most memory read."""
        return max(self.rss_bytes)

    @property
    def cores_mean(self) -> float:
        """CPUs in use, over all of the time that was sampled."""
        ends = [self.from_us, *self.at_us]
        total = sum(cores * (end - before) for cores, before, end in zip(self.cores, ends, self.at_us, strict=False))
        return total / max(1, self.at_us[-1] - self.from_us)

    def summary(self) -> str:
        """The lines in a sentence."""
        inherited = f", {words.size(self.baseline_rss_bytes)} of it inherited" if self.baseline_rss_bytes else ""
        seen = {word: self.blocked_in.count(word) / len(self.blocked_in) for word in set(self.blocked_in) if word}
        ranked = sorted(seen.items(), key=lambda item: (-item[1], item[0]))
        blocked = ", ".join(f"{word} {words.share(part)}" for word, part in ranked)
        return (
            f"{self.cores_mean:.2f} CPUs on average, {words.size(self.peak_rss_bytes)} of memory at most{inherited}."
            f"{f' Seen blocked in: {blocked} of the time.' if blocked else ''}"
        )


def resources(execution: Execution) -> Resources | None:
    """The samples as lines; None for fewer than three of them."""
    samples = sorted(execution.samples, key=lambda sample: sample.at_ns)
    if len(samples) < 3:
        return None
    # Instants are of the epoch; a position below any real epoch is one from the dequeue already.
    origin = execution.dequeued_at_ns if samples[0].at_ns >= execution.created_at_ns else 0
    step = max(1, -(-len(samples) // MOST_POINTS))
    before = samples[0]
    from_us = max(0, round((before.at_ns - origin) / 1_000))
    lines = Resources(from_us, [], [], [], [], [], execution.rusage.baseline_rss_bytes if execution.rusage else 0)
    for position in range(step, len(samples), step):
        sample = samples[position]
        elapsed = sample.at_ns - before.at_ns
        if elapsed <= 0:
            continue
        lines.at_us.append(max(0, round((sample.at_ns - origin) / 1_000)))
        lines.cores.append(round(max(0, sample.cpu_ns - before.cpu_ns) / elapsed, 3))
        delayed = sample.runqueue_ns + sample.threads_runqueue_ns - before.runqueue_ns - before.threads_runqueue_ns
        lines.waiting.append(round(max(0, delayed) / elapsed, 3))
        lines.rss_bytes.append(max(one.rss_bytes for one in samples[position - step + 1 : position + 1]))
        lines.blocked_in.append("" if sample.wait == "running" else sample.wait)
        before = sample
    return lines if lines.at_us else None


def data(lines: Resources) -> dict[str, object]:
    """What the script draws: points, the first of them where the first interval begins."""
    seen = sorted(set(lines.blocked_in))
    places = {word: place for place, word in enumerate(seen)}
    blocked = [places[word] for word in lines.blocked_in]
    return {
        "at": [lines.from_us, *lines.at_us],
        "cores": [lines.cores[0], *lines.cores],
        "waiting": [lines.waiting[0], *lines.waiting] if any(lines.waiting) else [],
        "rss": [lines.rss_bytes[0], *lines.rss_bytes],
        "words": seen,
        "blocked": [blocked[0], *blocked],
        "baseline": lines.baseline_rss_bytes,
    }
