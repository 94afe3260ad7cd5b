"""The names that somebody may have meant who wrote one that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: As alike as difflib's own default asks for: "mial" is near "mail".
_ALIKE = 0.6
#: Names that are so much less like it than the likest one are not meant.
_BEHIND = 0.15
#: Letters that are the beginning of a name, rather than another one with a mistake in it.
_TYPED = 3


def nearest(name: str, known: Iterable[str], most: int = 3) -> list[str]:
    """Known names like this one, the likest first, in any case. A dotted name is known by its last parts, too."""
    wanted = name.strip().lower()
    spelled: dict[str, list[str]] = {}
    for one in known:
        whole = one.lower()
        # Long names that begin alike are not near each other: as many parts are compared as were written.
        spelled.setdefault(".".join(whole.split(".")[-1 - wanted.count(".") :]), []).append(one)
    begun = sorted(each for each in spelled if len(wanted) >= _TYPED and each.startswith(wanted))
    close = difflib.get_close_matches(wanted, spelled, n=most, cutoff=_ALIKE) if wanted else []
    if close:
        least = _likeness(wanted, close[0]) - _BEHIND
        close = [each for each in close if _likeness(wanted, each) >= least]
    close = begun or close or sorted(each for each in spelled if wanted and wanted in each)
    return [one for each in close for one in spelled[each]][:most]


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, other, one).ratio()


def meant(name: str, known: Iterable[str]) -> str:
    """``did you mean a or b?``, or nothing."""
    found = nearest(name, known)
    return f"did you mean {' or '.join(found)}?" if found else ""
