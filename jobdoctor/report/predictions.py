"""What became of a prediction, in words."""

from __future__ import annotations

from jobdoctor import words
from jobdoctor.model import KeptPrediction


def sentence(kept: KeptPrediction) -> str:
    """``JD401 promised 3.1 s (2.4 s to 3.2 s) of 4.2 s a run; since deploy 3f9c2ab it is 1.0 s: came true``."""
    promised = kept.prediction
    of = "a run" if promised.where == "inside" else "from enqueue to done"
    said = (
        f"{promised.code} promised {words.duration(promised.mid_ms)} "
        f"({words.duration(promised.low_ms)} to {words.duration(promised.high_ms)}) "
        f"of {words.duration(promised.before_ms)} {of}; since deploy {kept.deploy.label} "
    )
    if kept.status == "too early":
        return said + f"there are {words.count(kept.executions, 'execution')}: too early to tell"
    gained = promised.before_ms - kept.after_ms
    what = f"{words.duration(gained)} given back" if gained >= 0 else f"{words.duration(-gained)} slower"
    verdicts = {
        "came true": "as promised",
        "more": "more than promised",
        "less": "less than promised",
        "not applied": f"{promised.code} is still found, so it was not applied",
    }
    return said + f"it is {words.duration(kept.after_ms)}, {what}: {verdicts[kept.status]}"
