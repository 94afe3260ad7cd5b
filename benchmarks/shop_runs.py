"""The sample shop's demo, run anew, and what was diagnosed: the base of the accuracy and the savings tables."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jobdoctor.config import Retention
from jobdoctor.diagnosis.engine import diagnose
from jobdoctor.errors import UnknownJobError
from jobdoctor.model import Diagnosis
from jobdoctor.store import Store
from sample_app.catalogue import CASES, Load

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Pair:
    """A planted illness: the diagnoses of the job that has it and of its cured twin, and what each of them got done.

    ``work`` is in units of the pair's own: a round may be three orders for one and one order for the other.
    """

    code: str
    sick: Diagnosis
    healthy: Diagnosis
    sick_work: float = 1.0
    healthy_work: float = 1.0


def pairs(*options: str) -> list[Pair]:
    """One run of the demo, in a process of its own, with servers of its own."""
    with tempfile.TemporaryDirectory(prefix="jobdoctor-bench-") as folder:
        command = [
            sys.executable, "-m", "jobdoctor", "demo", "--keep", "--output", folder, "--format", "json", *options,
        ]  # fmt: skip
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
        if done.returncode not in (0, 1):  # 1: an illness was missed, or a healthy job called ill
            raise SystemExit(f"the demo failed with exit code {done.returncode}")
        return recorded(Path(folder) / "demo.db")


def recorded(path: Path) -> list[Pair]:
    """The pairs in the store that a demo kept, as far as the catalogue had them then."""
    found: list[Pair] = []
    with Store.open(f"sqlite:///{path}", Retention()) as store:
        for case in CASES:
            try:
                sick, healthy = (diagnose(store.history(load.job)) for load in (case.sick, case.healthy))
            except UnknownJobError:  # a demo of some pairs only, or one of before the catalogue had this one
                continue
            found.append(Pair(case.code, sick, healthy, _work(case.sick), _work(case.healthy)))
    return found


def _work(load: Load) -> float:
    return load.rounds * load.work


def runs(number: int, *options: str) -> Iterator[list[Pair]]:
    """Several runs, one after the other."""
    for done in range(number):
        print(f"run {done + 1} of {number}", file=sys.stderr)
        yield pairs(*options)
