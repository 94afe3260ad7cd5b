"""A sampled profile as an indented tree: what costs, the path to it, and library frames folded away."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from jobdoctor.model import Execution, Profile

#: Frames below this share of the profile are not shown: sampling noise, and nothing to win.
SHOWN_SHARE = 0.02
SHOWN_FRAMES = 60


class FrameRow(Struct, frozen=True):
    depth: int
    function: str
    callsite: str
    ms: float
    share: float
    application: bool
    hot: bool  # on the path of the costliest child
    folded: int  # library frames left out between this one and its parent


class ProfileTree(Struct, frozen=True):
    execution_id: str
    rows: list[FrameRow]
    samples: int
    interval_ms: float
    total_ms: float


def profile_tree(executions: Sequence[Execution]) -> ProfileTree | None:
    """The tree of the profile with the most samples; None when nothing was profiled."""
    profiled = [
        (execution.profile.samples, execution.id, execution.profile)
        for execution in executions
        if execution.profile is not None and execution.profile.frames
    ]
    if not profiled:
        return None
    samples, execution_id, profile = max(profiled, key=lambda item: item[0])
    return ProfileTree(execution_id, _rows(profile), samples, profile.interval_ms, profile.duration_ns / 1e6)


def _rows(profile: Profile) -> list[FrameRow]:
    frames = profile.frames
    children: dict[int, list[int]] = {}
    for index, frame in enumerate(frames):
        # A parent stands before its children; anything else would be a circle.
        children.setdefault(frame.parent if frame.parent < index else -1, []).append(index)
    for siblings in children.values():
        siblings.sort(key=lambda index: -frames[index].ns)
    total = profile.duration_ns or sum(frames[index].ns for index in children.get(-1, [])) or 1
    hot: set[int] = set()
    path = children.get(-1, [])
    while path:
        hot.add(path[0])
        path = children.get(path[0], [])
    rows: list[FrameRow] = []
    # (frame, depth, library frames folded on the way); a stack, since a call tree may be deeper than Python recurses.
    pending = [(index, 0, 0) for index in reversed(children.get(-1, []))]
    while pending and len(rows) < SHOWN_FRAMES:
        index, depth, folded = pending.pop()
        frame = frames[index]
        if frame.ns < total * SHOWN_SHARE:
            continue
        below = children.get(index, [])
        passes_on = len(below) == 1 and frames[below[0]].ns >= frame.ns * 0.95
        if not frame.application and passes_on:
            pending.append((below[0], depth, folded + 1))
            continue
        rows.append(
            FrameRow(
                depth, frame.function, frame.callsite, frame.ns / 1e6, frame.ns / total, frame.application,
                index in hot, folded,
            )
        )  # fmt: skip
        pending.extend((child, depth + 1, 0) for child in reversed(below))
    return rows
