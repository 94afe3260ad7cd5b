"""Did a job become slower? Answered against a baseline, on a machine whose speed changes from minute to minute.

The old code is not there to be run beside the new one. What both can be held against are small workloads
(``calibration``) that run in turns with the job, then and now. Three things keep noise from failing a build:

1. Time is CPU time where the job computes, and otherwise time without waits for a processor and without the waiting in
   recorded calls. What neighbours do to that, they do to the workloads, too.
2. When the baseline is written, a part of the rounds run beside load that we make ourselves. From these is learnt which
   mix of the workloads follows the job best, and how far they still part: what the mix cannot explain widens the
   margin.
3. A job is suspected when a first look is slower by two thirds of the margin, and failed when a second, longer look
   shows the whole margin by itself (Mann-Whitney, and the size of the shift), in both of its halves and in their faster
   rounds, too. A second look that is neither clear nor shows the margin is repeated once.

How many lines of Python the job executes (``work``) is known without noise. A job that executes more of them, and comes
out slower, fails when the mean of both (of their logarithms) is beyond the margin: where the machine hides a part of
the slowdown, the lines show it. Lines alone never fail, and without more lines the time has to show all.
"""

from __future__ import annotations

import gc
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import combinations
from statistics import fmean, median, quantiles

from msgspec import Struct

from jobdoctor import words
from jobdoctor.gate import calibration, counting, work
from jobdoctor.gate.failure import Call, Failure, call_of
from jobdoctor.gate.profile import Profile
from jobdoctor.gate.rank_tests import higher

#: Slowdown that fails, unless the marker says otherwise: pytest-benchmark's documentation takes 5% to 15%.
MARGIN = 0.15
#: Rounds of the baseline: alone, beside a process that streams memory, and beside one that takes our processor.
ALONE, BESIDE = 8, 6
#: Rounds of the first look and of the second. Of the second, as many as of the first are enough where lines tell, too.
FIRST, SECOND = 7, 14
#: Of the margin, what the first look must show: a true slowdown must not be lost to it.
SUSPECT = 2 / 3
FIRST_P, SECOND_P = 0.01, 0.001
#: Of the margin, what the time must show of a job that executes more lines.
FELT = 1 / 3
#: How many times the margin must be of what the mix of workloads left unexplained under load.
UNEXPLAINED = 2.5
#: A margin this many times wider than asked is tried to be avoided, by writing the baseline so often at most.
WIDE, WRITINGS = 1.5, 3
#: A round repeats a job that is shorter than this, ms: below it, clocks and caches are most of what is measured.
ROUND_MS = 20.0
MOST_REPEATS = 20
#: The job computes when this share of its time is CPU.
COMPUTES = 0.5
#: Weights of a mix are multiples of one over this.
_STEPS = 5

#: They end by themselves when the process that started them is gone, whatever ended it.
_WHILE_WANTED = "import os\nstarter = os.getppid()\nwhile os.getppid() == starter:\n    "
_LOADS = {
    "memory": f"a = bytearray(1 << 26)\nb = bytearray(1 << 26)\n{_WHILE_WANTED}a[:] = b\n    b[:] = a\n",
    "processor": f"{_WHILE_WANTED}sum(range(10_000))\n",
}


class Round(Struct, frozen=True, array_like=True):
    """One turn: the job's time, and the workloads' (the mean of before and after), in us."""

    job_us: int
    kernels_us: list[int]
    load: str = ""


class Timing(Struct):
    """What the baseline keeps of a job's time on one machine. ``rounds``: "load job kernel kernel ...", in us."""

    clock: str  # "cpu" or "busy"
    ms: float  # median of the rounds without load
    kernels: str
    rounds: list[str]
    peak_bytes: int | None = None  # of what Python allocated in one run
    lines: int | None = None  # of Python, executed in one run


class Measured(Struct):
    """What ``timed`` gives: ``ms`` is the job's median time by ``clock``; ``slowdown`` is 1.3 for 30% more than the
    baseline, None without one; ``grown`` says the same of the lines of Python. ``remark`` says why there is none, or
    what the comparison is worth."""

    job: str
    ms: float
    clock: str
    machine: str
    timing: Timing
    slowdown: float | None = None
    grown: float | None = None
    margin: float = MARGIN
    remark: str = ""


class Fit(Struct, frozen=True):
    """A mix of the workloads that follows a job. ``margin`` is what a slowdown must exceed, a share: what
    was ``asked``, or more where the mix does not explain the baseline."""

    weights: tuple[float, ...]
    residuals: list[float]
    margin: float
    asked: float

    def rest(self, rounds: Sequence[Round]) -> list[float]:
        """What the mix leaves of each round: logarithms, of which only differences mean something."""
        return [_residual(each, self.weights) for each in rounds]


def measure(
    run: Callable[[], tuple[float, float]], clock: str, repeats: int, rounds: int, load: str = ""
) -> list[Round]:
    """``run`` gives (CPU ms, busy ms) of one run; each round repeats it and takes the means."""
    found = []
    with _other_objects_frozen(), work.untraced():
        before = calibration.kernel_times()
        for _ in range(rounds):
            times = []
            for _ in range(repeats):
                gc.collect()  # so that collections come where they came in the other runs
                times.append(run()[0 if clock == "cpu" else 1])
            after = calibration.kernel_times()
            kernels = [round(500 * (before[name] + after[name])) for name in calibration.KERNELS]
            found.append(Round(max(1, round(1_000 * fmean(times))), kernels, load))
            before = after
    return found


@contextmanager
def _other_objects_frozen() -> Iterator[None]:
    """What other tests left behind would be looked through by each of the job's garbage collections."""
    gc.collect()
    if gc.get_freeze_count():  # somebody else has: theirs must stay so
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def baseline_rounds(run: Callable[[], tuple[float, float]], clock: str, repeats: int, margin: float) -> list[Round]:
    """Rounds for a new baseline. Where the machine was so disturbed that the margin would be wide, it is tried again,
    and the best one kept."""
    tried: list[tuple[float, list[Round]]] = []
    for _ in range(WRITINGS):
        found = _loaded_rounds(run, clock, repeats)
        tried.append((fit(found, margin).margin, found))
        if tried[-1][0] <= WIDE * margin:
            break
    return min(tried, key=lambda each: each[0])[1]


def _loaded_rounds(run: Callable[[], tuple[float, float]], clock: str, repeats: int) -> list[Round]:
    """Alone, and beside load of each kind."""
    found = measure(run, clock, repeats, ALONE)
    for kind in _LOADS:
        with _loaded(kind):
            found += measure(run, clock, repeats, BESIDE, kind)
    return found


@contextmanager
def _loaded(kind: str) -> Iterator[None]:
    """A process that disturbs this one; of the kind "processor", on the same one."""
    process = subprocess.Popen([sys.executable, "-c", _LOADS[kind]])  # noqa: S603 -- our own text
    try:
        if kind == "processor":
            _pin(process.pid)
        yield
    finally:
        process.kill()
        process.wait()


def _pin(pid: int) -> None:
    try:
        with open("/proc/self/stat", encoding="ascii", errors="replace") as stat:
            processor = int(stat.read().rpartition(")")[2].split()[36])
        os.sched_setaffinity(pid, {processor})
    except (OSError, ValueError, IndexError, AttributeError):
        pass  # it disturbs from where it is


# ---------------------------------------------------------------------------------------------------------- statistics


@cache
def _mixes(kernels: int) -> list[tuple[float, ...]]:
    """All weights in steps of a fifth that add up to one."""
    return [
        tuple(
            (after - before - 1) / _STEPS
            for before, after in zip((-1, *cuts), (*cuts, _STEPS + kernels - 1), strict=True)
        )
        for cuts in combinations(range(_STEPS + kernels - 1), kernels - 1)
    ]


def _residual(each: Round, weights: Sequence[float]) -> float:
    expected = sum(weight * math.log(us) for weight, us in zip(weights, each.kernels_us, strict=True) if weight)
    return math.log(each.job_us) - expected


def fit(rounds: Sequence[Round], margin: float) -> Fit:
    """The mix that follows the job best over the rounds: the one with the smallest mean deviation from its median."""
    logs = [(math.log(each.job_us), [math.log(max(1, us)) for us in each.kernels_us]) for each in rounds]

    def spread(weights: tuple[float, ...]) -> float:
        rest = [job - sum(w * log for w, log in zip(weights, kernels, strict=True)) for job, kernels in logs]
        middle = median(rest)
        return fmean(abs(value - middle) for value in rest)

    weights = min(_mixes(len(rounds[0].kernels_us)), key=spread)
    rest = [_residual(each, weights) for each in rounds]
    middle = median(rest)
    by_load: dict[str, list[float]] = {}
    for each, value in zip(rounds, rest, strict=True):
        by_load.setdefault(each.load, []).append(value)
    unexplained = max(abs(median(values) - middle) for values in by_load.values())
    return Fit(weights, rest, max(margin, math.expm1(UNEXPLAINED * unexplained)), margin)


def slowdown(before: Fit, rounds: Sequence[Round]) -> tuple[float, float]:
    """(how many times slower, p value) of the rounds, against the baseline."""
    now = before.rest(rounds)
    return math.exp(median(now) - median(before.residuals)), higher(before.residuals, now)


def slower(before: Fit, more: Callable[[int], list[Round]], grown: float | None = None) -> tuple[float, bool]:
    """(how many times slower, whether that is a failure). ``more`` runs as many rounds as it is asked for; ``grown`` is
    how many times more lines of Python the job executes."""
    works_more = grown is not None and grown > 1 + before.asked
    first = more(FIRST)
    if not works_more and not _suspected(before, first):
        return slowdown(before, first)[0], False
    second = more(FIRST if works_more else SECOND)
    if works_more and _felt(before, [*first, *second], grown or 1.0):
        return slowdown(before, [*first, *second])[0], True
    if works_more:
        second += more(SECOND - FIRST)
    if not _shown(before, second) and _suspected(before, second):
        second = more(SECOND)
    return slowdown(before, second)[0], _shown(before, second)


def _suspected(before: Fit, rounds: Sequence[Round]) -> bool:
    times, p = slowdown(before, rounds)
    return times > 1 + SUSPECT * before.margin and p <= FIRST_P


def _shown(before: Fit, rounds: Sequence[Round]) -> bool:
    """Whether the rounds show the whole margin by themselves."""
    times, p = slowdown(before, rounds)
    return times > 1 + before.margin and p < SECOND_P and _fastest_too(before, rounds)


def _felt(before: Fit, rounds: Sequence[Round], grown: float) -> bool:
    """Whether the time shows that more lines are executed, and both together that it is more than was asked."""
    times, p = slowdown(before, rounds)
    return times > 1 + FELT * before.asked and p < FIRST_P and math.sqrt(times * grown) > 1 + before.asked


def _fastest_too(before: Fit, rounds: Sequence[Round]) -> bool:
    """Whether each half of the rounds is slower also in its faster rounds. What disturbs makes some rounds slower, and
    for a while; slower code makes all of them so."""
    least = math.log1p(SUSPECT * before.margin)
    fast = quantiles(before.residuals, n=4)[0]
    middle = len(rounds) // 2
    halves = (before.rest(rounds[:middle]), before.rest(rounds[middle:]))
    return all(quantiles(half, n=4)[0] - fast > least for half in halves)


# ------------------------------------------------------------------------------------------------------------ the gate


def examine(
    run: Callable[[bool], Profile],
    known: Callable[[str], Mapping[str, Timing] | None],
    *,
    writes: bool,
    margin: float | None = None,
) -> tuple[Measured, list[Failure]]:
    """Times a job and compares it with what is known of it. ``run(profiled)`` runs it once. ``writes``: a new baseline
    is made, and nothing compared."""
    run(False)  # imports, caches and connections
    warm = run(False)
    job, machine = warm.job, calibration.machine()
    before = None if writes else (known(job) or {}).get(machine)
    if before is not None and before.kernels != kernels_name():
        before = None
    clock = before.clock if before is not None else _clock_of(warm)

    def once() -> tuple[float, float]:
        profile = run(False)
        return profile.cpu_ms, own_ms(profile)

    repeats = repeats_of(warm.cpu_ms if clock == "cpu" else own_ms(warm))
    if writes:
        rounds = baseline_rounds(once, clock, repeats, MARGIN if margin is None else margin)
    elif before is None:
        rounds = measure(once, clock, 1, 3)
    else:
        rounds = []
    peak = peak_bytes(run)
    lines = work.lines_of(lambda: run(False))
    asked = MARGIN if margin is None else margin
    if before is None:
        alone = median(each.job_us for each in rounds if not each.load) / 1_000
        timing = Timing(clock, alone, kernels_name(), [_written(each) for each in rounds], peak, lines)
        why = "" if writes else _why_not(job, machine, known(job))
        return Measured(job, alone, clock, machine, timing, margin=asked, remark=why), []
    fitted = fit([_read(line) for line in before.rounds], asked)

    def more(number: int) -> list[Round]:
        found = measure(once, clock, repeats, number)
        rounds.extend(found)
        return found

    grown = (lines + 1) / (before.lines + 1) if before.lines is not None else None
    times, failed = slower(fitted, more, grown)
    now = median(each.job_us for each in rounds) / 1_000
    timing = Timing(clock, now, kernels_name(), [_written(each) for each in rounds], peak, lines)
    measured = Measured(job, now, clock, machine, timing, times, grown, fitted.margin)
    if fitted.margin > WIDE * asked:
        measured.remark = (
            f"{job}: compared with a margin of {words.share(fitted.margin)}, as the rounds of the baseline differ so "
            "much under load; write it anew on a calmer machine"
        )
    failures = [_slower(measured, run(True), asked)] if failed else []
    failures += _larger(measured, before.peak_bytes)
    return measured, failures


def repeats_of(ms: float) -> int:
    """How often a round repeats a job that takes so long."""
    return max(1, min(MOST_REPEATS, math.ceil(ROUND_MS / max(ms, 0.001))))


def own_ms(profile: Profile) -> float:
    """Time that is neither a wait for a processor nor one in a recorded call."""
    waited = sum(group.total_ns - group.cpu_ns for group in profile.groups) / 1e6
    return max(profile.cpu_ms, profile.busy_ms - waited)


def _clock_of(profile: Profile) -> str:
    return "cpu" if profile.cpu_ms >= COMPUTES * own_ms(profile) else "busy"


#: Python's own bookkeeping moves a peak by some kilobytes from run to run.
PEAK_MARGIN, PEAK_BYTES = 0.10, 64 * 1024


def peak_bytes(run: Callable[[bool], Profile]) -> int:
    """Peak of what Python allocates in one run, which is slower for it, and not timed."""
    import tracemalloc

    traced = tracemalloc.is_tracing()
    if not traced:
        tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        run(False)
        return max(0, tracemalloc.get_traced_memory()[1] - before)
    finally:
        if not traced:
            tracemalloc.stop()


def kernels_name() -> str:
    """Rounds with other workloads are not comparable."""
    return " ".join(calibration.KERNELS)


def _written(each: Round) -> str:
    return " ".join(str(part) for part in (each.load or "alone", each.job_us, *each.kernels_us))


def _read(line: str) -> Round:
    load, job, *kernels = line.split()
    return Round(int(job), [int(us) for us in kernels], "" if load == "alone" else load)


def _why_not(job: str, machine: str, known: Mapping[str, Timing] | None) -> str:
    if known:
        return f"{job}: the baseline is of another machine ({', '.join(known)}), not of {machine}"
    return f"{job}: not in the baseline; write it with --jobdoctor-update, on the machine that compares"


def _slower(measured: Measured, profiled: Profile, asked: float) -> Failure:
    kind = "CPU" if measured.clock == "cpu" else "its own time"
    more = (measured.slowdown or 1.0) - 1
    what = (
        f"{measured.job}: {words.duration(measured.ms)} of {kind}, {words.share(more)} more than the baseline "
        f"against this machine's speed, {words.share(asked)} allowed"
    )
    if measured.grown is not None and measured.grown > 1 + asked:
        what += f"; it executes {words.share(measured.grown - 1)} more lines of Python"
    calls = [call_of(group) for group in counting.largest(profiled.groups, lambda group: group.cpu_ns > 0)]
    hot = hottest(profiled)
    return Failure(
        "max_slowdown",
        what,
        hot or calls,
        "JD301 cpu-bound",
        "look at this line first, or accept with --jobdoctor-update",
    )


def hottest(profile: Profile) -> list[Call]:
    """The application's line in which a profiled run spent the most time by itself."""
    found = profile.execution.profile
    if found is None:
        return []
    own: dict[int, int] = {number: frame.ns for number, frame in enumerate(found.frames)}
    for frame in found.frames:
        if frame.parent >= 0:
            own[frame.parent] -= frame.ns
    # What a library does is charged to the application's line that called it.
    lines: dict[tuple[str, str], int] = {}
    for number, ns in own.items():
        at = number
        while at >= 0 and not found.frames[at].application:
            at = found.frames[at].parent
        if at >= 0:
            place = (found.frames[at].callsite, found.frames[at].function)
            lines[place] = lines.get(place, 0) + ns
    if not lines:
        return []
    (callsite, function), ns = max(lines.items(), key=lambda line: line[1])
    share = ns / max(1, found.duration_ns)
    return [Call(1, f"{words.share(share)} of the time", callsite, function)]


def _larger(measured: Measured, before: int | None) -> list[Failure]:
    now = measured.timing.peak_bytes
    if before is None or now is None or now <= before * (1 + PEAK_MARGIN) + PEAK_BYTES:
        return []
    what = (
        f"{measured.job}: {words.binary_size(before)} -> {words.binary_size(now)} allocated at its peak, "
        f"{words.share(PEAK_MARGIN)} allowed"
    )
    return [
        Failure("baseline", what, rule="JD302 memory-peak", cure="keep no more of the data than the step at hand needs")
    ]
