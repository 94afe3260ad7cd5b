"""``jobdoctor queues``: how long a job enqueued now will wait, and why."""

from __future__ import annotations

import time
from math import inf
from typing import TYPE_CHECKING, Any

import click

from jobdoctor.cli.options import format_option, quiet_option, since_a_day_option, store_option, url_option
from jobdoctor.cli.output import note, print_text, wants_color
from jobdoctor.errors import ConfigError, StoreError, StreamError
from jobdoctor.near import meant

if TYPE_CHECKING:
    from jobdoctor.config import Settings
    from jobdoctor.model import DepthPoint, QueuesSample, TraceRow
    from jobdoctor.queueing.expectation import Times, Worker
    from jobdoctor.queueing.observation import ObservedQueue
    from jobdoctor.report.queues import DemotedRow, QueueRow, QueuesReport, StalledRow
    from jobdoctor.rq.live import LiveQueues
    from jobdoctor.rq.queue_state import WorkerState

_SECOND_NS = 1_000_000_000
_DAY_NS = 86_400 * _SECOND_NS
#: Depths over time are shown of the last hour, or of --since.
_COURSE_NS = 3_600 * _SECOND_NS
#: With each sign of life a worker says how long it is to be remembered, and gives the next one 60 s before that at the
#: latest (RQ 2 and 3; ``--worker-ttl`` changes both).
_OVERDUE_TTL_S = 45.0
#: Where the server does not say how long: an idle one gives a sign every 7 minutes, a busy one every half a minute.
_SILENT_IDLE_S, _SILENT_BUSY_S = 480.0, 300.0
#: Beyond so many of its longest recorded runs, and a minute, a job makes no progress.
_RUNS, _LEAST_S = 5.0, 60.0
#: Queues that an error message names.
_NAMED = 12

EPILOG = """\b
Examples:
  jobdoctor queues
  jobdoctor queues high default --since 2h
  jobdoctor queues --format json
"""


@click.command("queues", short_help="How deep each queue is, and how long a job enqueued now will wait.", epilog=EPILOG)
@click.argument("queues", nargs=-1, metavar="[QUEUE]...")
@format_option("text", "json", default="text")
@since_a_day_option
@store_option
@url_option
@quiet_option
def command(
    queues: tuple[str, ...], format_: str, since: int | None, store: str | None, url: str | None, quiet: bool
) -> None:
    """How deep each queue is, and how long a job enqueued now will wait.

    What stands in line and what the workers run is read from Redis, and changes nothing there; how long such jobs take
    is known from the recordings (of the last day, or --since). The line is played through many times: the median and
    the 95th percentile of the wait are shown with what they are based on. Recorded waits are told apart by how the jobs
    came to the queue: straight, scheduled, deferred, retried and so on. Depths over time (of the last hour, or --since)
    are samples that workers take. Without a server the recordings alone speak, without recordings the server alone.
    """
    from msgspec.structs import replace

    from jobdoctor import config
    from jobdoctor.cli.progress import progress
    from jobdoctor.report import queues as report

    settings = config.load(store=store, redis_url=url)
    now_ns = time.time_ns()
    since_ns = now_ns - _DAY_NS if since is None else since
    course_ns = (now_ns - _COURSE_NS if since is None else since_ns, now_ns)
    rows, sample, depths, source = _recorded(settings, since_ns, course_ns)
    live, demoted, problem = _live(settings.redis_url)
    if live is None and not rows and sample is None:
        raise StreamError(f"{problem}, and there are no recordings in {source}", "start the server, or give its --url")
    if live is None:
        note(f"Note: {problem}", quiet=quiet)
    with progress("Playing the queues through", quiet):
        made = _report(rows, live, sample, demoted, queues, settings, source, since_ns, now_ns)
        made = replace(
            made,
            queues=[replace(row, course=depths.get(row.name, [])) for row in made.queues],
            course_ns=(min((points[0].at_ns for points in depths.values()), default=now_ns), now_ns),
        )
    if format_ == "json":
        print_text(report.render_json(made))
    else:
        print_text(report.render_text(made, color=wants_color()))


def _recorded(
    settings: Settings, since_ns: int, course_ns: tuple[int, int]
) -> tuple[list[TraceRow], QueuesSample | None, dict[str, list[DepthPoint]], str]:
    """Executions of the window, the newest sample of the queues in it, and their depths over time."""
    from jobdoctor.cli.reading import drained
    from jobdoctor.store import Store

    with Store.open(settings.store, settings.retention) as opened:
        try:
            drained(opened, settings, quiet=True)
        except StreamError:
            pass  # said below, by whoever looks at the queues
        try:
            newest_ns = opened.newest_sample_ns()
            if not newest_ns and opened.is_empty():
                return [], None, {}, opened.where
            samples = opened.samples(max(since_ns, newest_ns))
            newest = samples[-1] if samples else None
            return opened.traffic(since_ns)[0], newest, opened.depths(*course_ns), opened.where
        except StoreError as error:
            note(f"Note: {error.what}")
            return [], None, {}, opened.where


def _live(url: str) -> tuple[LiveQueues | None, list[DemotedRow], str]:
    """What the server has; None, and why, when it does not answer."""
    from jobdoctor.report.queues import DemotedRow
    from jobdoctor.rq import live
    from jobdoctor.rq.slo_state import read_states
    from jobdoctor.store.stream import shown

    connection = live.connect(url)
    try:
        found = live.look(connection)
        states = [state for state in read_states(connection) if state.demoted_since_ns]
    except StreamError as error:
        return None, [], f"{error.what} at {shown(url)}"
    finally:
        connection.close()
    demoted = [
        DemotedRow(
            state.job,
            state.slo_ms / 1_000,
            None if state.p95_ms is None else state.p95_ms / 1_000,
            state.demoted_since_ns or 0,
            state.moved,
        )
        for state in states
    ]
    return found, demoted, ""


def _report(
    rows: list[TraceRow],
    live: LiveQueues | None,
    sample: QueuesSample | None,
    demoted: list[DemotedRow],
    wanted: tuple[str, ...],
    settings: Settings,
    source: str,
    since_ns: int,
    now_ns: int,
) -> QueuesReport:
    from jobdoctor.queueing.expectation import Times
    from jobdoctor.queueing.observation import observe
    from jobdoctor.report.queues import QueuesReport
    from jobdoctor.store.stream import shown

    observed = observe(rows)
    names = sorted(
        {
            *observed,
            *((queue.name for queue in live.state.queues) if live else ()),
            *((queue.queue for queue in sample.queues) if sample else ()),
        }
    )
    unknown = [name for name in wanted if name not in names]
    if unknown:
        listed = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
        close = meant(unknown[0], names)
        hint = f"{close} " if close else ""
        raise ConfigError(f"there is no queue {unknown[0]!r}", f"{hint}queues: {listed or 'none'}")
    times: dict[str, list[float]] = {}
    for row in rows:
        times.setdefault(row.job, []).append(max(0, row.reaped_at_ns - row.dequeued_at_ns) / _SECOND_NS)
    drawn = Times(times)
    if live is None:
        queues = _remembered(sample, observed)
    else:
        queues = _queues(live, observed, drawn, len(rows), since_ns, now_ns)
    return QueuesReport(
        at_ns=live.state.at_ns if live else now_ns,
        live=shown(settings.redis_url) if live else "",
        source=source,
        since_ns=since_ns,
        executions=len(rows),
        workers=len(live.state.workers) if live else None,
        suspended=live is not None and live.state.suspended,
        queues=sorted((row for row in queues if not wanted or row.name in wanted), key=_place),
        stalled=_stalled(live, drawn) if live else [],
        demoted=demoted,
        left_out=live.state.left_out if live else [0, 0],
        gone=live.state.gone if live else [],
        held=live.state.held if live else {},
        sampled_ns=sample.at_ns if sample and not live else 0,
    )


def _queues(
    live: LiveQueues,
    observed: dict[str, ObservedQueue],
    times: Times,
    executions: int,
    since_ns: int,
    now_ns: int,
) -> list[QueueRow]:
    from jobdoctor import words
    from jobdoctor.queueing.expectation import Expected, Line, expected
    from jobdoctor.report.queues import QueueRow

    lines = {}
    for queue in live.state.queues:
        line = live.in_line.get(queue.name)
        lines[queue.name] = Line(queue.depth, tuple(line.next), tuple(line.behind)) if line else Line(queue.depth, ())
    workers = _workers(live)
    silent = [worker.queues for worker in live.state.workers if _silent_s(live, worker) is not None]
    # Where recordings begin later than the window, nothing is known of the time before.
    first_ns = min((own.whole.arrivals.first_ns for own in observed.values()), default=since_ns)
    window_s = max(_LEAST_S, (now_ns - max(since_ns, first_ns)) / _SECOND_NS)
    rates = {
        (name, job): each.executions / window_s for name, own in observed.items() for job, each in own.jobs.items()
    }
    answers = expected(lines, workers, times, rates)
    span = words.duration((now_ns - since_ns) / 1e6).replace(".0 ", " ")
    found = []
    for queue in live.state.queues:
        listening = sum(queue.name in worker.queues for worker in workers)
        missed = sum(queue.name in queues for queues in silent)
        answer = answers[queue.name]
        reason = "" if answer is not None else _NO_RECORDINGS
        if not listening:
            answer, reason = Expected(inf, inf, answer.ahead if answer else [], 0.0), ""
        elif answer is not None and queue.depth and answer.unknown_share >= 0.5:
            answer, reason = None, "the wait is not known: most of what stands in line was never recorded"
        basis = f"from {executions:,} executions in {span}, {words.count(listening, 'worker')}"
        if answer is not None and answer.unknown_share:
            basis += f"; {words.share(answer.unknown_share)} of the line was never recorded, and counts as the others"
        oldest = None if queue.oldest_at_ns is None else max(0.0, (live.state.at_ns - queue.oldest_at_ns) / _SECOND_NS)
        found.append(
            QueueRow(
                queue.name, queue.depth, oldest, queue.scheduled, queue.deferred, listening, answer, reason, basis,
                observed.get(queue.name), _busy(live, queue.name, observed.get(queue.name), since_ns), missed,
            )
        )  # fmt: skip
    known = {queue.name for queue in live.state.queues}
    return found + [
        QueueRow(name, 0, None, 0, 0, 0, None, "", "", own) for name, own in observed.items() if name not in known
    ]  # fmt: skip


def _busy(live: LiveQueues, queue: str, own: ObservedQueue | None, since_ns: int) -> float | None:
    """How busy those are that listen to the queue, whatever they take."""
    from jobdoctor.queueing.observation import busy_share

    if own is None:
        return None
    born = {
        worker.name: worker.birth_ns or since_ns for worker in live.state.workers if queue in worker.queues
    }  # fmt: skip
    return busy_share(own.workers, born, since_ns, live.state.at_ns)


def _remembered(sample: QueuesSample | None, observed: dict[str, ObservedQueue]) -> list[QueueRow]:
    """Without a server: what was recorded, and the newest sample."""
    from jobdoctor.report.queues import QueueRow

    seen = {queue.queue: queue for queue in sample.queues} if sample else {}
    found = []
    for name in sorted({*seen, *observed}):
        own, queue = observed.get(name), seen.get(name)
        if queue is None or sample is None:
            busy = own.utilisation if own else None
            found.append(QueueRow(name, None, None, None, None, None, None, _NO_SERVER, "", own, busy))
            continue
        age = None if queue.oldest_at_ns is None else max(0.0, (sample.at_ns - queue.oldest_at_ns) / _SECOND_NS)
        found.append(
            QueueRow(
                name, queue.depth, age, queue.scheduled, queue.deferred, queue.workers, None, _NO_SERVER_NOW, "", own,
                own.utilisation if own else None,
            )
        )  # fmt: skip
    return found


def _place(row: QueueRow) -> tuple[float, str]:
    """Queues of promises by their promise, the fastest first; then the others by name."""
    from jobdoctor.promises import seconds_of_queue

    return seconds_of_queue(row.name) or inf, row.name


_NO_SERVER_NOW = "the wait is not known: no server answered"
_NO_SERVER = "depth and expected wait are not known: no server answered"
_NO_RECORDINGS = "the wait is not known: nothing was recorded in this window (`jobdoctor run` records)"


def _workers(live: LiveQueues) -> list[Worker]:
    """Those that give signs of life."""
    from jobdoctor.queueing.expectation import Worker

    found = []
    for worker in live.state.workers:
        if _silent_s(live, worker) is not None:
            continue
        running = live.running.get(worker.name)
        ran_s = max(0.0, (live.state.at_ns - running.since_ns) / _SECOND_NS) if running and running.since_ns else 0.0
        found.append(Worker(tuple(worker.queues), running.job if running else "", ran_s))
    return found


def _silent_s(live: LiveQueues, worker: WorkerState) -> float | None:
    """For how long the worker has given no sign of life, when that is too long."""
    if not worker.heartbeat_ns:
        return None
    silent_s = (live.state.at_ns - worker.heartbeat_ns) / _SECOND_NS
    if worker.ttl_s is not None:
        return silent_s if worker.ttl_s < _OVERDUE_TTL_S else None
    return silent_s if silent_s > (_SILENT_BUSY_S if worker.executions else _SILENT_IDLE_S) else None


def _stalled(live: LiveQueues, times: Times) -> list[StalledRow]:
    from jobdoctor.report.queues import StalledRow
    from jobdoctor.report.whatif import seconds

    found: list[StalledRow] = []
    for worker in live.state.workers:
        silent_s = _silent_s(live, worker)
        running = live.running.get(worker.name)
        said: list[Any] = []
        if silent_s is not None:
            said.append(f"no sign of life for {seconds(silent_s)}")
        if running is not None and running.since_ns:
            ran_s = (live.state.at_ns - running.since_ns) / _SECOND_NS
            usual = times.by_job.get(running.job)
            if running.timeout_s and ran_s > running.timeout_s + _LEAST_S:
                said.append(f"on {running.job} for {seconds(ran_s)}, its timeout is {seconds(running.timeout_s)}")
            elif usual and ran_s > max(_LEAST_S, _RUNS * usual[-1]):
                said.append(f"on {running.job} for {seconds(ran_s)}, which never took more than {seconds(usual[-1])}")
        if said:
            found.append(StalledRow(worker.name, worker.queues, "; ".join(said)))
    return found
