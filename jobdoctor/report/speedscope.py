"""A profile as a speedscope file: https://www.speedscope.app opens it, and so do Perfetto and others.

The format is described by https://www.speedscope.app/file-format-schema.json; ours is its "evented" kind: frames open
and close in order. A sampled call tree has no order of its own, so siblings stand heaviest first, and times are places
within the tree, not instants.
"""

from __future__ import annotations

from typing import Any

from jobdoctor._version import __version__
from jobdoctor.model import Profile, ProfileFrame

SCHEMA = "https://www.speedscope.app/file-format-schema.json"


def document(profile: Profile, name: str) -> dict[str, Any]:
    """The file as JSON-like data. Frames below one another by mistake, or longer than their callers, are put right."""
    frames: list[dict[str, Any]] = []
    numbers: dict[tuple[str, str], int] = {}
    events: list[dict[str, Any]] = []
    children = _children(profile.frames)
    roots = children.get(-1, [])
    end = max(profile.duration_ns, sum(profile.frames[index].ns for index in roots), 1)
    # A stack of (frame, where it may begin, where it must end); -1 - index closes one. Trees may be deeper than Python
    # recurses.
    pending = _placed(profile.frames, roots, 0, end)
    while pending:
        index, start, stop = pending.pop()
        frame = profile.frames[index if index >= 0 else -1 - index]
        number = numbers.setdefault((frame.function, frame.callsite), len(frames))
        if number == len(frames):
            frames.append(_frame(frame))
        if index < 0:
            events.append({"type": "C", "frame": number, "at": stop})
            continue
        events.append({"type": "O", "frame": number, "at": start})
        pending.append((-1 - index, start, stop))
        pending.extend(_placed(profile.frames, children.get(index, []), start, stop))
    return {
        "$schema": SCHEMA,
        "name": name,
        "exporter": f"jobdoctor {__version__}",
        "activeProfileIndex": 0,
        "shared": {"frames": frames},
        "profiles": [
            {
                "type": "evented",
                "name": name,
                "unit": "nanoseconds",
                "startValue": 0,
                "endValue": end,
                "events": events,
            }
        ],
    }


def application_frames(profile: Profile) -> list[int]:
    """Which of the document's frames are the application's."""
    numbers: dict[tuple[str, str], bool] = {}
    children = _children(profile.frames)
    pending = list(reversed(children.get(-1, [])))
    while pending:
        index = pending.pop()
        frame = profile.frames[index]
        numbers.setdefault((frame.function, frame.callsite), frame.application)
        pending.extend(reversed(children.get(index, [])))
    return [number for number, application in enumerate(numbers.values()) if application]


def _children(frames: list[ProfileFrame]) -> dict[int, list[int]]:
    """Children by parent, heaviest first. A parent stands before its children; anything else would be a circle."""
    children: dict[int, list[int]] = {}
    for index, frame in enumerate(frames):
        children.setdefault(frame.parent if frame.parent < index else -1, []).append(index)
    for siblings in children.values():
        siblings.sort(key=lambda index: -frames[index].ns)
    return children


def _placed(frames: list[ProfileFrame], siblings: list[int], start: int, stop: int) -> list[tuple[int, int, int]]:
    """Siblings one after the other within their caller, the first one last: they go onto a stack."""
    placed: list[tuple[int, int, int]] = []
    for index in siblings:
        end = min(stop, start + max(0, frames[index].ns))
        placed.append((index, start, end))
        start = end
    return placed[::-1]


def _frame(frame: ProfileFrame) -> dict[str, Any]:
    file, _, line = frame.callsite.rpartition(":")
    if not (file and line.isdecimal()):
        return {"name": frame.function, **({"file": frame.callsite} if frame.callsite else {})}
    return {"name": frame.function, "file": file, "line": int(line)}
