"""The page of all jobs: the triage table, with how runs went and which jobs hold up or enqueue one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from jobdoctor.model import VerdictWhere
from jobdoctor.report.context import ReportContext
from jobdoctor.report.over_time import CoursePoint
from jobdoctor.report.triage import Triage, TriageRow, of_rows

#: Points of a line that is 120 pixels wide.
SPARK_POINTS = 30
#: Fewer make no line.
LEAST_POINTS = 3
SHOWN_RELATIONS = 4
#: Of a job's queue wait, below which the job ahead is not worth a link.
AHEAD_SHARE = 0.1


class IndexPage(Struct, frozen=True):
    """A job's report, and the name of its file beside the index."""

    context: ReportContext
    href: str


class Spark(Struct, frozen=True):
    """The p95 of runs over the window (the median where too few stand behind a p95), on 100 by 24 units."""

    path: str
    last_ms: float
    top_ms: float
    of: str  # "p95", "p50"


class Relation(Struct, frozen=True):
    what: str  # "waits behind", "locked out by", "locks out", "enqueued by", "enqueues"
    job: str


class IndexJob(Struct, frozen=True):
    """One line of the table. The times of ``triage`` are ms a day."""

    triage: TriageRow
    href: str
    runs: int
    run_p95_ms: float
    failures: int
    spark: Spark | None
    relations: list[Relation]


class Index(Struct, frozen=True):
    """Best first. Times are ms a day, over all jobs."""

    jobs: list[IndexJob]
    from_ns: int
    to_ns: int
    days: float
    saving_ms: float
    worker_ms: float
    waiting_ms: float
    verdicts: list[tuple[VerdictWhere, int]]


def build_index(pages: Sequence[IndexPage]) -> Index:
    """The jobs of these pages, in the order of ``jobdoctor triage``."""
    by_job = {page.context.job: page for page in pages}
    found: Triage = of_rows(
        [page.context.triage for page in by_job.values()],
        min((page.context.from_ns for page in pages), default=0),
        max((page.context.to_ns for page in pages), default=0),
    )
    counts: dict[VerdictWhere, int] = {}
    for row in found.rows:
        counts[row.where] = counts.get(row.where, 0) + 1
    order: tuple[VerdictWhere, ...] = ("inside", "around", "both", "unknown", "none")
    return Index(
        jobs=[_job(row, by_job[row.job], by_job) for row in found.rows],
        from_ns=found.from_ns,
        to_ns=found.to_ns,
        days=found.days,
        saving_ms=sum(row.saving_ms.mid for row in found.rows),
        worker_ms=sum(row.worker_ms for row in found.rows),
        waiting_ms=sum(row.waiting_ms for row in found.rows),
        verdicts=[(where, counts[where]) for where in order if where in counts],
    )


def _job(row: TriageRow, page: IndexPage, known: Mapping[str, IndexPage]) -> IndexJob:
    context = page.context
    return IndexJob(
        triage=row,
        href=page.href,
        runs=context.run_ms.count,
        run_p95_ms=context.run_ms.p95,
        failures=context.failures,
        spark=_spark(context),
        relations=[one for one in _relations(context) if one.job in known and one.job != row.job][:SHOWN_RELATIONS],
    )


def _spark(context: ReportContext) -> Spark | None:
    view = next((view for view in context.over_time.views if view.key == context.over_time.first), None)
    course = next((course for course in view.courses if course.metric == "run"), None) if view else None
    if course is None:
        return None
    tails = [(point, point.p95_ms) for point in course.points if point.p95_ms is not None]
    medians = [(point, point.p50_ms) for point in course.points]
    values: list[tuple[CoursePoint, float]] = tails if len(tails) * 2 >= len(medians) else medians
    size = -(-len(values) // SPARK_POINTS)
    # The largest of each stretch: what a triage looks for is not averaged away.
    heights = [max(value for _, value in values[start : start + size]) for start in range(0, len(values), size)]
    if len(heights) < LEAST_POINTS:
        return None
    top = max(1.0, *heights)
    step = 100 / (len(heights) - 1)
    path = "".join(
        f"{'L' if number else 'M'}{number * step:.1f} {23 - value / top * 21:.1f}"
        for number, value in enumerate(heights)
    )
    return Spark(path, heights[-1], max(heights), "p95" if values is tails else "p50")


def _relations(context: ReportContext) -> list[Relation]:
    found = [Relation("locked out by", row.blocking_job) for row in context.locks if row.blocking_job]
    found += [Relation("locks out", row.job) for row in context.blocked]
    found += [Relation("waits behind", row.job) for row in context.queue.rows if row.share >= AHEAD_SHARE]
    found += [Relation("enqueued by", row.parent_job) for row in context.triggers.rows if row.parent_job]
    found += [Relation("enqueues", row.job) for row in context.triggers.enqueued]
    return list(dict.fromkeys(found))
