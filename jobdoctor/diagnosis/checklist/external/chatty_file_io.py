"""chatty-file-io: very many small reads, writes, opens or syncs of files.

## What it looks for

Three habits of one execution: `fsync` again and again from one line; the same file opened again and again from one
line; and thousands of reads and writes that move a few bytes each, as the kernel counts them for the whole function.
Reads and writes are not judged where a library makes them in its own way: SQLite, TLS, other processes' pipes.

## Why it costs time

Each is a system call. An open is 10 us and more, a small write 1 to 5 us, on a network file system a round trip; a
sync waits until the disk has everything, which is 1 to 10 ms on most disks, and holds up others that write there.

## What to do

Open the file once and write to it, with Python's own buffer. Sync once, at the end: write to a temporary file, sync
it, and rename it to its name, so that readers see all of it or nothing. Read in blocks of 64 kB or line by line from
an open file, which reads in blocks as well.

## When it is a false alarm

When each record must be on disk before the next step may begin, as in a journal: then let several records share a sync.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jobdoctor.diagnosis import measure, round_trips
from jobdoctor.diagnosis.measure import Calls, words_bytes, words_count, words_ms
from jobdoctor.diagnosis.rule import Limit
from jobdoctor.diagnosis.severity import TimeRule
from jobdoctor.model import Evidence, Execution, Finding, JobHistory, Severity, SpanGroup

#: Files that the kernel makes up when they are read: opening them again is how they are read again.
_OF_THE_KERNEL = ("/proc/", "/sys/", "/dev/")
#: A small read or write in us: (a tuned machine's, the middle, an emulated or encrypted one's).
_SMALL_CALL_US = (0.5, 2.0, 6.0)


class ChattyFileIo(TimeRule):
    """JD207."""

    code = "JD207"
    name = "chatty-file-io"
    step = "external"
    kind = "batch"
    needs = ("file",)
    related_to = ("JD301",)

    syncs = Limit(
        10, "calls", "syncs from one line for each execution", "own: ten files that are saved safely are a healthy job"
    )
    grave_syncs = Limit(
        50, "calls", "syncs from which it is a warning whatever they took", "own: a disk takes 1 to 10 ms for each"
    )
    reopened = Limit(50, "calls", "opens of one file from one line for each execution", "own: a loop over lines")
    grave_reopened = Limit(500, "calls", "opens from which it is a warning whatever they took", "own: ten times that")
    small_calls = Limit(
        5_000, "calls", "reads and writes of the function, if they are small", "own: 10 ms and more of system calls"
    )
    small_bytes = Limit(
        256, "bytes", "mean size below which reads and writes are small", "own: Python's buffer is 8 kB"
    )
    few_others = Limit(
        0.05,
        "share",
        "calls of libraries that read and write themselves, to all reads and writes, up to which these are judged",
        "own: SQLite makes a handful of reads for each statement",
    )

    def check(self, history: JobHistory) -> Iterator[Finding]:
        executions = measure.typical(history)
        lines = measure.merge_calls(executions, "file", where=_is_on_a_disk, by=_line)
        synced = [each for each in lines if each.first.operation == "fsync" and each.count >= self.limits.syncs]
        opened = [each for each in lines if each.first.operation == "open" and self._is_reopened(each)]
        small = self._small_calls(executions)
        if synced or opened or small:
            yield self._describe(executions, synced, opened, small)

    def _is_reopened(self, calls: Calls) -> bool:
        """Whether a line opens the same file again and again."""
        if calls.count < self.limits.reopened:
            return False
        return calls.distinct > 0 and calls.count >= self.limits.reopened * calls.distinct

    def _small_calls(self, executions: Sequence[Execution]) -> float:
        """Small reads and writes of each execution; 0 where they are few, large, or may be a library's."""
        known = [each for each in executions if each.file_io is not None]
        if not known:
            return 0.0
        calls = measure.mean(_read_and_written(each)[0] for each in known)
        moved = measure.mean(_read_and_written(each)[1] for each in known)
        others = measure.mean(sum(group.count for group in each.groups if _reads_itself(group)) for each in known)
        if calls < self.limits.small_calls or moved >= self.limits.small_bytes * calls:
            return 0.0
        return 0.0 if others > self.limits.few_others * calls else calls

    def _describe(
        self, executions: Sequence[Execution], synced: Sequence[Calls], opened: Sequence[Calls], small: float
    ) -> Finding:
        whole = measure.body_ms(executions)
        syncs, opens = sum(each.count for each in synced), sum(each.count for each in opened)
        # One sync, and one open of each file, remain.
        spent = [
            each.total_ms * (1 - max(1.0, left) / each.count)
            for each, left in [*((one, 1.0) for one in synced), *((one, one.distinct) for one in opened)]
        ]
        low, mid, high = (sum(spent) + small * us / 1_000 for us in _SMALL_CALL_US)
        # At most, what is computed between them goes as well: buffers and encoders that Python makes for each file.
        high += sum(round_trips.between_ms(each) for each in [*synced, *opened])
        severity: Severity = self.severity(mid, whole, calls=syncs + opens + small)
        grave = syncs >= self.limits.grave_syncs or opens >= self.limits.grave_reopened
        if severity == "info" and grave:
            severity = "warning"
        said = []
        if synced:
            said.append(f"{words_count(syncs)} syncs")
        if opened:
            files = sum(each.distinct for each in opened)
            said.append(
                f"{words_count(opens)} opens of {words_count(files)} {'file' if round(files) == 1 else 'files'}"
            )
        if small:
            said.append(f"{words_count(small)} reads and writes of a few bytes")
        lead = max([*synced, *opened], key=lambda each: each.total_ms, default=None)
        line = lead.first.callsite if lead is not None else ""
        evidence = []
        if lead is not None:
            evidence.append(
                measure.calls_evidence(
                    f"{' and '.join(said[: bool(synced) + bool(opened)])} take "
                    f"{words_ms(sum(each.total_ms for each in [*synced, *opened]))} of {words_ms(whole)} in the job",
                    [*synced, *opened],
                )
            )
        if small:
            evidence.append(_small_evidence(executions, small))
        return self.finding(
            severity=severity,
            confidence=0.9 if lead is not None else 0.7,
            title=f"{' and '.join(said)} for each execution" + (f" from {line}" if line else ""),
            cost_ms=sum(each.total_ms for each in [*synced, *opened]) + small * _SMALL_CALL_US[1] / 1_000,
            saving=measure.give_or_take(0.5 * low, mid, high),
            text="Open the file once, let Python's buffer gather what is written, and sync once at the end. A rename "
            "then shows readers all of it or nothing",
            snippet=(f"# {line}\n" if line else "") + 'with open(f"{path}.new", "w") as output:  # once\n'
            "    for item in items:\n        output.write(line_of(item))\n"
            "    output.flush()\n    os.fsync(output.fileno())  # once\n"
            'os.replace(f"{path}.new", path)',
            callsite=line,
            calls=round(syncs + opens + small),
            evidence=evidence,
        )


def _is_on_a_disk(group: SpanGroup) -> bool:
    return not group.fingerprint.startswith(_OF_THE_KERNEL)


def _line(group: SpanGroup) -> tuple[str, ...]:
    return (group.operation, group.callsite)


def _read_and_written(execution: Execution) -> tuple[int, int]:
    """(calls, bytes) of the function's reads and writes."""
    io = execution.file_io
    return (io.read_calls + io.write_calls, io.read_bytes + io.written_bytes) if io is not None else (0, 0)


def _reads_itself(group: SpanGroup) -> bool:
    """Calls of libraries whose reads and writes are no business of the job: files of SQLite, TLS, pipes."""
    return group.target.startswith(("sqlite:", "https:", "rediss:")) or group.channel == "subprocess"


def _small_evidence(executions: Sequence[Execution], small: float) -> Evidence:
    moved = measure.mean(_read_and_written(each)[1] for each in executions if each.file_io is not None)
    return Evidence(
        "fact",
        f"{words_count(small)} reads and writes move {words_bytes(moved)}: {words_bytes(moved / small)} each, as the "
        "kernel counts them for the whole function",
        {"calls": round(small), "bytes": round(moved)},
    )
