"""Graphs as boxes and curves in three columns: who blocks whom, and who enqueues whom. Drawn without a script.

Boxes are placed on a canvas of fixed width in CSS pixels; names are cut to the room and told whole by a tooltip and by
the tables beside the pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from jobdoctor import words
from jobdoctor.model import Execution, JobHistory

WIDTH = 960
BOX_WIDTH = 260
BOX_HEIGHT = 44
GAP = 16
#: Room above the boxes for curves that lead back.
TOP = 34
#: Boxes in one column; what comes after them is in the table.
MOST_BOXES = 8
#: Letters of a monospaced line of 12 pixels that a box has room for.
LETTERS = 33
#: Widest curve, for the one with the most behind it.
MOST_STROKE = 7.0


class Box(Struct, frozen=True):
    """``job`` is the whole name when the box is a job's, for a link to its report."""

    x: float
    y: float
    title: str
    subtitle: str
    whole: str
    job: str
    own: bool
    width: int = BOX_WIDTH
    height: int = BOX_HEIGHT


class Edge(Struct, frozen=True):
    path: str
    stroke: float
    label: str
    x: float  # the middle of the label
    y: float
    head_x: float  # the point of the arrow
    head_y: float
    back: bool  # a part of a circle


class Graph(Struct, frozen=True):
    """``columns`` are the headings of the columns: place and text. ``summary`` says the graph in words."""

    height: float
    boxes: list[Box]
    edges: list[Edge]
    columns: list[tuple[float, str]]
    summary: str
    width: int = WIDTH


class Side(Struct, frozen=True):
    """A box of an outer column, before it has a place."""

    title: str
    subtitle: str
    job: str
    label: str  # of its edge
    weight: float
    back: bool


def lock_graph(history: JobHistory) -> Graph | None:
    """Who held what this job waited for, and who waited for what this job held; None when neither is known."""
    waits = _ranked(
        ((wait.kind, wait.statement or wait.target), (wait.blocking_job, wait.blocking_statement), wait.waited_ns)
        for execution in history.executions
        for wait in execution.locks
        if wait.blocking_job or wait.blocking_statement
    )
    # Waits of this job for itself are among its own.
    holds = _ranked(
        ((wait.kind, wait.blocking_statement), (wait.job, wait.statement), wait.waited_ns)
        for wait in history.blocked
        if wait.job != history.job
    )
    if not waits and not holds:
        return None
    holds = holds[: max(2, MOST_BOXES - len(waits))]
    own = _last(history.job)
    middle = [Side(f"{own} waits ({kind})", statement, "", "", 0, False) for (kind, statement), _ in waits]
    middle += [Side(f"{own} holds ({kind})", statement, "", "", 0, False) for (kind, statement), _ in holds]
    left, before = _others(waits)
    right, after = _others(holds)
    rows = max(len(left), len(middle), len(right))
    last = WIDTH - BOX_WIDTH
    place = last if not right else last / 2 if left else 0
    lefts = _column(0, rows, [_other(one, history.job) for one in left], history.job)
    middles = _column(place, rows, middle, history.job)
    rights = _column(last, rows, [_other(one, history.job) for one in right], history.job)
    most = max(sum(found) for _, _, found in [*before, *after])
    edges = [
        _edge(
            lefts[at], middles[number], _amount(found), sum(found) / most, back=left[at][0] == history.job,
        )
        for at, number, found in before
    ]  # fmt: skip
    edges += [
        _edge(middles[len(waits) + number], rights[at], _amount(found), sum(found) / most, back=False)
        for at, number, found in after
    ]
    columns = [(0.0, "holds the lock")] if left else []
    columns += [(place, "this job")] if right else [(place, "waits for it")]
    columns += [(float(last), "waits for it")] if right else []
    sentences = []
    if waits:
        sentences.append(f"{_told(waits, before, left, 'of waiting, the most of it behind')}.")
    if any(job == history.job for job, _ in left):
        sentences.append("It blocks itself: executions of this job wait for one another.")
    if holds:
        sentences.append(f"Others wait {_told(holds, after, right, 'for its locks, the most of it')}.")
    return Graph(
        TOP + rows * (BOX_HEIGHT + GAP), [*lefts, *middles, *rights], edges, columns, " ".join(sentences)
    )  # fmt: skip


#: A lock of this job: its kind and its statement. The other side of it: its job, which may be unknown, and statement.
_Own = tuple[str, str]
_Other = tuple[str, str]
_Found = dict[_Other, list[int]]


def _ranked(waits: Iterable[tuple[_Own, _Other, int]]) -> list[tuple[_Own, _Found]]:
    """Waits in ns by this job's lock and by who stands on its other side; the most waited for first."""
    merged: dict[_Own, _Found] = {}
    for own, other, ns in waits:
        merged.setdefault(own, {}).setdefault(other, []).append(ns)
    return sorted(merged.items(), key=lambda item: -_total(item[1]))[:MOST_BOXES]


def _others(ranked: Sequence[tuple[_Own, _Found]]) -> tuple[list[_Other], list[tuple[int, int, list[int]]]]:
    """The boxes of the other side, and for each edge: which of them, which lock, the waits."""
    boxes: dict[_Other, int] = {}
    edges = []
    for number, (_, found) in enumerate(ranked):
        for other, waits in sorted(found.items(), key=lambda item: -sum(item[1])):
            if other in boxes or len(boxes) < MOST_BOXES:
                edges.append((boxes.setdefault(other, len(boxes)), number, waits))
    return list(boxes), edges


def _other(other: _Other, job: str) -> Side:
    return Side(_last(other[0]) or "not recorded", other[1], other[0], "", 0, other[0] == job)


def _amount(waits: Sequence[int]) -> str:
    return f"{words.duration(sum(waits) / 1e6)}, {words.count(len(waits), 'wait')}"


def _total(found: _Found) -> int:
    return sum(sum(waits) for waits in found.values())


def _told(
    ranked: Sequence[tuple[_Own, _Found]], edges: Sequence[tuple[int, int, list[int]]], others: Sequence[_Other],
    what: str,
) -> str:  # fmt: skip
    job, statement = others[max(edges, key=lambda edge: sum(edge[2]))[0]]
    total = sum(_total(found) for _, found in ranked)
    return f"{words.duration(total / 1e6)} {what} {job or f'a session whose job was not recorded ({statement})'}"


def trigger_graph(history: JobHistory) -> Graph | None:
    """Who enqueues this job and what it enqueues; jobs on both sides are a circle. None when nothing is known."""
    above = _enqueuers(history)
    below = _enqueued(history)
    if not above and not below:
        return None
    both = {side.job for side in above if side.job} & {side.job for side in below}
    itself = history.job in both
    above = [_circled(side, both) for side in above][:MOST_BOXES]
    below = [_circled(side, both) for side in below][:MOST_BOXES]
    rows = max(1, len(above), len(below))
    height = TOP + rows * (BOX_HEIGHT + GAP)
    lefts = _column(0, rows, above, history.job)
    rights = _column(WIDTH - BOX_WIDTH, rows, below, history.job)
    own = Side(_last(history.job), words.count(len(history.trace), "execution"), "", "", 0, False)
    (middle,) = _column((WIDTH - BOX_WIDTH) / 2, rows, [own], history.job, own=True)
    most = max((side.weight for side in [*above, *below]), default=1) or 1
    edges = [
        _edge(box, middle, side.label, side.weight / most, back=side.back)
        for box, side in zip(lefts, above, strict=True)
    ]
    edges += [
        _edge(middle, box, side.label, side.weight / most, back=side.back)
        for box, side in zip(rights, below, strict=True)
    ]
    circles = sorted(both - {history.job})
    sentences = [
        f"Enqueued by {', '.join(dict.fromkeys(side.title for side in above)) or 'nobody that is known'}",
        f"it enqueues {', '.join(_last(side.job) for side in below)}" if below else "it enqueues no job that was seen",
    ]
    summary = f"{'; '.join(sentences)}."
    if itself:
        summary += " It enqueues itself."
    if circles:
        summary += f" A circle: {', '.join(circles)} enqueues this job and is enqueued by it."
    columns = [((WIDTH - BOX_WIDTH) / 2, "this job")]
    columns += [(0, "enqueues it")] if above else []
    columns += [(WIDTH - BOX_WIDTH, "it enqueues")] if below else []
    return Graph(height, [*lefts, middle, *rights], edges, columns, summary)


def _enqueuers(history: JobHistory) -> list[Side]:
    counts: dict[tuple[str, str, str], int] = {}
    for row in history.trace:
        if row.trigger_kind or row.trigger_callsite or row.parent_job:
            key = (row.parent_job, row.trigger_callsite, row.trigger_kind or "unknown")
            counts[key] = counts.get(key, 0) + 1
    if {key[2] for key in counts} <= {"unknown"} and not any(key[0] or key[1] for key in counts):
        return []
    return [
        Side(
            _last(job) if job else callsite or kind, callsite if job else ("" if not callsite else kind), job,
            f"{words.number(number)} times" if number != 1 else "once", number, False,
        )
        for (job, callsite, kind), number in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]  # fmt: skip


def _enqueued(history: JobHistory) -> list[Side]:
    calls: dict[tuple[str, str], int] = {}
    for execution in history.executions:
        for job, callsite, number in _enqueued_by(execution):
            calls[job, callsite] = calls.get((job, callsite), 0) + number
    # What the trace of the neighbours knows, where the call itself was not recorded.
    seen = {job for job, _ in calls}
    children: dict[str, int] = {}
    for row in history.neighbours:
        if row.parent_job == history.job and row.job not in seen:
            children[row.job] = children.get(row.job, 0) + 1
    looked_at = max(1, len(history.executions))
    sides = [
        Side(_last(job), callsite, job, f"{words.number(number / looked_at)} × each", number / looked_at, False)
        for (job, callsite), number in calls.items()
    ]
    sides += [Side(_last(job), "", job, words.count(number, "time"), number, False) for job, number in children.items()]
    return sorted(sides, key=lambda side: (-side.weight, side.job, side.subtitle))


def _enqueued_by(execution: Execution) -> list[tuple[str, str, int]]:
    return [
        (group.fingerprint, group.callsite, max(group.count, group.items))
        for group in execution.groups
        if group.channel == "enqueue" and group.fingerprint
    ]


def _circled(side: Side, both: set[str]) -> Side:
    return Side(side.title, side.subtitle, side.job, side.label, side.weight, side.job in both)


def _column(x: float, rows: int, sides: Sequence[Side], job: str, *, own: bool = False) -> list[Box]:
    """Boxes below one another, in the middle of the height."""
    free = (rows - len(sides)) * (BOX_HEIGHT + GAP) / 2
    return [
        Box(
            x,
            TOP + free + number * (BOX_HEIGHT + GAP),
            _cut(side.title, LETTERS - 1),
            _cut(side.subtitle, LETTERS + 3),
            f"{side.job or side.title} {side.subtitle}".strip(),
            "" if side.job == job else side.job,
            own or side.job == job,
        )
        for number, side in enumerate(sides)
    ]


def _edge(from_: Box, to: Box, label: str, weight: float, *, back: bool) -> Edge:
    x1, y1 = from_.x + from_.width, from_.y + from_.height / 2
    x2, y2 = to.x - 9, to.y + to.height / 2
    middle = (x1 + x2) / 2
    return Edge(
        f"M{x1:.0f} {y1:.0f}C{middle:.0f} {y1:.0f} {middle:.0f} {y2:.0f} {x2:.0f} {y2:.0f}",
        round(1.2 + (MOST_STROKE - 1.2) * min(1.0, max(0.0, weight)), 1),
        label,
        round(middle, 1),
        round((y1 + y2) / 2, 1),
        x2 + 8,
        y2,
        back,
    )


def _last(job: str) -> str:
    """The function and its module: what tells jobs of one project apart."""
    return ".".join(job.rsplit(".", 2)[-2:])


def _cut(text: str, letters: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= letters else f"{line[: letters - 1]}…"
