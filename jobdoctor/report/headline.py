"""The verdict in its parts, so that a page can set apart what is wrong, what to do and what it gives back."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from jobdoctor.model import Finding, Verdict

#: How :func:`jobdoctor.diagnosis.verdict.headline` begins its last clause.
_GAIN = "; gives back about "
_NOTHING = "Nothing wrong found: "


class Headline(Struct, frozen=True):
    """``problem`` is the whole sentence where no finding leads. ``gain`` is a duration, ``gain_of`` what it is part of
    (``of 211 ms an execution``)."""

    problem: str
    action: str = ""
    gain: str = ""
    gain_of: str = ""
    code: str = ""  # of the finding that leads


def headline(verdict: Verdict, findings: Sequence[Finding]) -> Headline:
    """The parts of the verdict's headline."""
    said = verdict.headline
    lead = next((one for one in findings if one.title and said.startswith(f"{one.title}: ")), None)
    if lead is None:
        rest = said.removeprefix(_NOTHING)  # which is what the verdict's own word says beside it
        return Headline(rest[:1].upper() + rest[1:])
    action, _, gain = said.removeprefix(f"{lead.title}: ").partition(_GAIN)
    return Headline(lead.title, action[:1].upper() + action[1:], *_parts(gain), lead.code)


def _parts(gain: str) -> tuple[str, str]:
    """``90 ms of 211 ms an execution`` and ``90 ms an execution``, after the duration."""
    for sign in (" of ", " an execution"):
        before, found, after = gain.partition(sign)
        if found:
            return before, f"{sign}{after}".strip()
    return gain, ""
