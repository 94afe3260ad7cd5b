"""circular-trigger: jobs that enqueue each other in a circle, with nothing new in it.

## What it looks for

Executions that descend from an execution of the same job with the same arguments, by way of the jobs that enqueued
them: A enqueues B, and B enqueues A again. It takes three such rounds in at least two chains, or six in one. A job
that enqueues itself with other arguments (the next slice, the next page) goes somewhere; one that comes back after a
pause of a minute or more, or was scheduled, is a poll or a schedule of its own.

## Why it costs time

Each side takes the other's write for news. The circle turns as fast as workers are free, takes their time from jobs
that have something to do, and ends by accident or not at all.

## What to do

Let one side know its own echo: pass on where a change came from, or compare with what was written last and do not
enqueue when nothing changed. A state guard in the database (`UPDATE ... WHERE version < :version`) does both: no row
changed, nothing enqueued.

## When it is a false alarm

When the rounds come nearer to an end each time by what they read, not by their arguments: then a loop within one job
is cheaper than a job for each round.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from jobdoctor import words
from jobdoctor.diagnosis import measure
from jobdoctor.diagnosis.attempts import busy_ms
from jobdoctor.diagnosis.rule import Limit, NotChecked
from jobdoctor.diagnosis.severity import TimeRule
from jobdoctor.model import Evidence, Finding, JobHistory, TraceRow

#: Ancestors looked at: longer circles than this many jobs are not looked for, and a longer chain has shown its circle.
_ANCESTORS = 64


class CircularTrigger(TimeRule):
    """JD806."""

    code = "JD806"
    name = "circular-trigger"
    step = "trigger"
    kind = "delete"
    where = "around"

    min_rounds = Limit(3, "rounds", "rounds of one chain below which it may be a correction", "own: twice is a retry")
    min_chains = Limit(2, "chains", "chains of so many rounds below which the rule is silent", "own: once is chance")
    rounds_alone = Limit(6, "rounds", "rounds from which one chain is enough", "own: twice the rounds of several")
    max_pause_s = Limit(60, "s", "pause from which coming back is a schedule", "cron's shortest interval is a minute")
    circular_share = Limit(
        0.3, "share", "share of the executions that repeat a round, from which it is a warning", "own: a third of them"
    )

    def check(self, history: JobHistory) -> Iterable[Finding]:
        rows = {row.execution_id: row for row in (*history.neighbours, *history.trace)}
        own = [row for row in history.trace if row.attempt == 1]
        if not any(row.parent_execution_id for row in own):
            if own and all(row.trigger_kind in ("", "unknown") for row in own):
                raise NotChecked(
                    "Who enqueued the job is not known: enqueue where jobdoctor is imported, or call "
                    "jobdoctor.stamp_enqueues() in the web process"
                )
            return
        rounds: dict[str, int] = {}
        continued: set[str] = set()
        ways: Counter[tuple[str, ...]] = Counter()
        repeated: list[TraceRow] = []
        for row in sorted(own, key=lambda row: row.dequeued_at_ns):
            found = self._round_before(row, rows)
            if found is None:
                continue
            before, way = found
            rounds[row.execution_id] = rounds.get(before.execution_id, 0) + 1
            continued.add(before.execution_id)
            ways[way] += 1
            repeated.append(row)
        # How far each chain went: the round of its last execution.
        longest = [number for execution_id, number in rounds.items() if execution_id not in continued]
        if max(longest, default=0) < self.limits.rounds_alone and (
            sum(length >= self.limits.min_rounds for length in longest) < self.limits.min_chains
        ):
            return
        yield self._finding(history, own, repeated, longest, ways.most_common(1)[0][0])

    def _round_before(self, row: TraceRow, rows: Mapping[str, TraceRow]) -> tuple[TraceRow, tuple[str, ...]] | None:
        """The execution of the same job with the same arguments that this one descends from, and the jobs between."""
        if not row.args_hash:
            return None
        way: list[str] = []
        child = row
        for _ in range(_ANCESTORS):
            parent = rows.get(child.parent_execution_id)
            if parent is None or self._pauses(parent, child):
                return None
            if parent.job == row.job:
                return (parent, tuple(reversed(way))) if parent.args_hash == row.args_hash else None
            way.append(parent.job)
            child = parent
        return None

    def _pauses(self, parent: TraceRow, child: TraceRow) -> bool:
        return child.enqueued_at_ns - parent.reaped_at_ns >= self.limits.max_pause_s * 1e9 or (
            child.scheduled and child.enqueued_at_ns - child.created_at_ns >= self.limits.max_pause_s * 1e9
        )

    def _finding(
        self,
        history: JobHistory,
        own: Sequence[TraceRow],
        repeated: Sequence[TraceRow],
        chains: Sequence[int],
        way: Sequence[str],
    ) -> Finding:
        cost = busy_ms(repeated) / len(own)
        lines = Counter(row.trigger_callsite for row in repeated if row.trigger_callsite)
        callsite = lines.most_common(1)[0][0] if lines else ""
        circle = [history.job, *way, history.job]
        through = f"by way of {', '.join(way)}" if way else "by itself"
        severity = self.severity(cost, busy_ms(own) / len(own))
        if severity == "info" and len(repeated) >= self.limits.circular_share * len(own):
            severity = "warning"
        return self.finding(
            severity=severity,
            confidence=0.9 if max(chains) >= self.limits.rounds_alone else 0.8,
            title=f"{len(repeated)} of {len(own)} executions were enqueued in a circle, {through}",
            cost_ms=cost,
            saving=measure.give_or_take(cost * 0.9, cost, cost),
            text=(
                "Break the circle: compare with what was written last, and enqueue nothing when nothing changed"
                + (f" (here: at {callsite})" if callsite else "")
                + f". It went round up to {max(chains)} times with the same arguments"
            ),
            snippet=(
                "changed = session.execute(\n"
                "    update(Thing).where(Thing.id == thing_id, Thing.version < version).values(version=version, ...)\n"
                ").rowcount\n"
                "if changed:  # an echo changes nothing, and goes no further\n"
                "    queue.enqueue(other_job, thing_id)"
            ),
            callsite=callsite,
            evidence=[
                Evidence(
                    "trigger",
                    f"{' → '.join(circle)}: {words.count(len(chains), 'chain')}, "
                    f"the longest of {words.count(max(chains), 'round')}",
                    {
                        "circle": circle,
                        "chains": len(chains),
                        "longest": max(chains),
                        "executions": len(repeated),
                        "callsite": callsite,
                        "worker_time_ms": round(busy_ms(repeated), 3),
                    },
                )
            ],
        )
