"""cpu-starved: the job is ready to run and gets no processor.

## What it looks for

The kernel's run-queue delay (runnable, not running) of jobs that need the processor: at least `wait_ms` of it, and at
least `wait_factor` times the CPU that the job used itself, in most executions. It is a warning when the job computes
for a real part of its time and workers of its own queues ran beside it: then there are more of them than processors.
When the host was busy with something else, or the job mostly waits, it is only remarked.

## Why it costs time

There is more to do on the host than its processors can: more workers than cores, other programs beside them, or a
container whose CPU limit is too low. Everything then takes longer, also what is measured as waiting for a database,
and more workers make it worse.

## What to do

Run as many workers for CPU-heavy queues as there are cores to run them, and no more; give them a host or a CPU share
of their own. Jobs that wait for services can share a host with them, jobs that compute should not. Then make the job
compute less.

## When it is a false alarm

When the host was busy with something that is over: a build, a backup, a deploy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jobdoctor.diagnosis import measure
from jobdoctor.diagnosis.measure import words_count, words_ms, words_share
from jobdoctor.diagnosis.rule import Limit, NotChecked, Rule
from jobdoctor.model import Evidence, Execution, Finding, JobHistory, Severity, TraceRow

_CPU = ("cpu", "gc", "import")


class CpuStarved(Rule):
    """JD307."""

    code = "JD307"
    name = "cpu-starved"
    step = "internals"
    where = "around"
    kind = "queue"
    min_executions = 3

    demand_ms = Limit(
        30, "ms", "CPU that an execution uses, below which it needs no processor", "own: three times a fork"
    )
    heavy_ms = Limit(
        100, "ms", "CPU that an execution uses from which it may be a warning", "own: less is gone with the next job"
    )
    heavy_share = Limit(
        0.3, "share", "share of the run, without the delay, that is CPU, from which it may be a warning", "own: a third"
    )
    workers = Limit(
        2,
        "workers",
        "of these queues that were busy at the same time, from which it may be a warning",
        "own: one is no crowd",
    )
    wait_ms = Limit(50, "ms", "run-queue delay of each execution, below which nothing is said", "own: five forks")
    wait_factor = Limit(
        0.5, "factor", "delay over CPU used below which nothing is said", "own: a host that is busy now and then"
    )
    warning_factor = Limit(
        1.0, "factor", "delay over CPU used from which it is a warning", "own: the job computes at half its speed"
    )
    warning_ms = Limit(100, "ms", "delay of each execution from which it is a warning", "own: twice wait_ms")
    warning_share = Limit(0.25, "share", "share of the run that is delay, from which it is a warning", "own: a quarter")
    critical_factor = Limit(4.0, "factor", "delay over CPU from which it is critical", "own: a fifth of its speed")
    critical_ms = Limit(1_000, "ms", "delay from which it is critical", "own: a second of a worker, each time")
    most_executions = Limit(
        0.6, "share", "executions that must have waited so, for one may have met a deploy", "own: most of them"
    )

    def check(self, history: JobHistory) -> Iterator[Finding]:
        executions = measure.typical(history)
        if executions and not any(each.ledger for each in executions):
            raise NotChecked("where the time went is not known: run the job under `jobdoctor run`")
        starved = [
            each
            for each in executions
            if _demand_ms(each) >= self.limits.demand_ms
            and _delay_ms(each) >= max(self.limits.wait_ms, self.limits.wait_factor * _demand_ms(each))
        ]
        if len(starved) >= max(1.0, self.limits.most_executions * len(executions)):
            yield self._describe(history, executions)

    def _describe(self, history: JobHistory, executions: Sequence[Execution]) -> Finding:
        delay = measure.quantile([_delay_ms(each) for each in executions], 0.5)
        demand = measure.quantile([_demand_ms(each) for each in executions], 0.5)
        run = measure.run_ms(executions)
        factors = [_delay_ms(each) / max(0.001, _demand_ms(each)) for each in executions]
        factor = measure.quantile(factors, 0.5)
        workers = _workers_beside(history.neighbours, executions)
        heavy = demand >= self.limits.heavy_ms and demand >= self.limits.heavy_share * max(0.0, run - delay)
        severity: Severity = "info"
        limits = self.limits
        grave = factor >= limits.warning_factor and delay >= max(limits.warning_ms, limits.warning_share * run)
        if grave and heavy and workers >= limits.workers:
            severity = "warning"
            if factor >= limits.critical_factor and delay >= limits.critical_ms:
                severity = "critical"
        worst = max(executions, key=_delay_ms)
        hosts = {each.host for each in executions if each.host}
        evidence = [
            Evidence(
                "fact",
                f"{words_ms(demand)} of CPU took {words_ms(demand + delay)}: {words_ms(delay)} it was ready to run and "
                f"got no processor, median of {len(executions)} executions",
                {"cpu_ms": round(demand, 3), "cpu_wait_ms": round(delay, 3), "factor": round(factor, 3)},
            )
        ]
        if workers > 1:
            evidence.append(
                Evidence(
                    "queue",
                    f"{words_count(workers)} workers ran jobs beside it at one time, on "
                    f"{words_count(len(hosts))} {'host' if len(hosts) == 1 else 'hosts'}",
                    {"workers": workers, "hosts": sorted(hosts)},
                )
            )
        else:
            evidence.append(
                Evidence("fact", "No other worker of these queues was busy then: something else keeps the host busy")
            )
        evidence.append(measure.execution_evidence(worst, "Longest without a processor"))
        slower = 1 + factor
        saving = _saving(executions, delay, demand)
        return self.finding(
            severity=severity,
            confidence=0.8 if severity != "info" else 0.6,
            title=f"Ready to run but without a processor for {words_ms(delay)} "
            f"({words_share(measure.share(delay, run))} of the run): it computes {slower:.1f} times as slowly",
            cost_ms=max(delay, saving[1]),
            saving=saving,
            text="Run no more workers than there are processors for them. Or give the CPU-heavy queue a host, or a "
            "larger share of this one",
            snippet=_snippet(executions[0].queue),
            evidence=evidence,
        )


def _saving(executions: Sequence[Execution], delay: float, demand: float) -> tuple[float, float, float]:
    """(low, mid, high) in ms of worker time, when no more run than there are processors.

    A host that has too much to do stretches all that computes, by the same factor: also what the worker does around the
    job, dispatch, fork and saving, whose waits nobody recorded. Of these as much goes as of the job's own time on the
    processor. What is left is the delay of a host that is not short of processors, a tenth of the CPU. Low: the others
    that compute are not all this queue's.
    """
    stretched = delay / (delay + demand) if delay + demand > 0 else 0.0
    gone = delay + stretched * measure.around_ms(executions)
    return measure.give_or_take(0.3 * gone, max(0.5 * gone, gone - 0.1 * demand), gone)


def _delay_ms(execution: Execution) -> float:
    return execution.ledger_ns("cpu_wait") / measure.NS_PER_MS


def _demand_ms(execution: Execution) -> float:
    return execution.ledger_ns(*_CPU) / measure.NS_PER_MS


def _workers_beside(rows: Sequence[TraceRow], executions: Sequence[Execution]) -> int:
    """How many workers were busy at a time while these executions ran: the median of what each of them met."""
    met = [
        len(
            {
                row.worker
                for row in rows
                if row.dequeued_at_ns < each.reaped_at_ns and row.reaped_at_ns > each.dequeued_at_ns
            }
            | {each.worker}
        )
        for each in executions
    ]
    return round(measure.quantile(met, 0.5))


def _snippet(queue: str) -> str:
    return (
        "nproc  # processors of this host; in a container: cat /sys/fs/cgroup/cpu.max\n"
        f"jobdoctor run {queue} --workers 2  # one for each processor that is free for them"
    )
