"""import-cost: each forked work horse imports the job's modules anew.

## What it looks for

Time spent importing in the work horse before and in the job, in forked and spawned workers, when it is at least
`import_ms` and at least `import_share` of the run. The modules are listed with what each cost. What the
application's own modules do while they are imported (tables built, files read) weighs from `import_ms` on. Libraries
that are merely loaded are ordinary, and only said, until all imports together take `heavy_ms`.

## Why it costs time

RQ forks a work horse for each job and imports the job's module in it. What the worker itself had not imported before
the fork is imported again for every job: a second of imports is a second for each execution, on every worker.

## What to do

Import the modules in the worker before it forks: write a small worker script that imports them and then works. The
horses inherit them for nothing. Import what only rare paths need inside the function that needs it.

## When it is a false alarm

When executions are so rare, or so long, that a second does not matter; or when the modules must not be loaded before
a fork (some open connections or start threads at import). Simple workers import once and are not judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jobdoctor import words
from jobdoctor.diagnosis import measure
from jobdoctor.diagnosis.measure import words_ms, words_share
from jobdoctor.diagnosis.rule import Limit, NotChecked
from jobdoctor.diagnosis.severity import TimeRule
from jobdoctor.model import Evidence, Execution, Finding, ImportCost, JobHistory, Severity

_MODULES_NAMED = 8


class ImportCostRule(TimeRule):
    """JD105."""

    code = "JD105"
    name = "import-cost"
    step = "payload"
    where = "inside"
    kind = "config"

    import_ms = Limit(
        50,
        "ms",
        "time of imports in each horse, the lower quartile: a busy host stretches imports more than most work",
        "own: four times what a fork costs; rq/rq#2098 reports seconds",
    )
    heavy_ms = Limit(
        750,
        "ms",
        "time of imports in each horse below which those of libraries are never more than info",
        "measured: requests, httpx, Django, SQLAlchemy's ORM take 50 to 300 ms each on the reference machine, the last "
        "two up to 690 ms while it is busy",
    )
    import_share = Limit(
        0.1,
        "share",
        "share of the run, without its waits for a processor, that imports take",
        "own: below it, other things come first",
    )
    module_share = Limit(0.05, "share", "share of the imports from which a module is in the preload list", "own")

    def check(self, history: JobHistory) -> Iterator[Finding]:
        executions = [each for each in measure.typical(history) if each.worker_kind in ("fork", "spawn")]
        if not executions:
            if any(each.worker_kind in ("simple", "inline") for each in history.executions):
                return
            raise NotChecked("no execution in a forked worker ended by itself: run the job under `jobdoctor run`")
        costs = [measure.ledger_ms([each], "import") for each in executions]
        cost = measure.quantile(costs, 0.25)
        run = measure.run_ms(executions)
        undisturbed = run - measure.ledger_ms(executions, "cpu_wait")
        if cost < self.limits.import_ms or cost < self.limits.import_share * undisturbed:
            return
        own = measure.quantile([_own_ms(each, history.job) for each in executions], 0.25)
        modules = self._modules(executions)
        names = [module.module for module in modules if module.depth == 0] or [history.job.rpartition(".")[0]]
        fork = executions[0].worker_kind == "fork"
        evidence = [
            Evidence(
                "fact",
                f"Imports take {words_ms(cost)} of {words_ms(run)} in each horse ({words_share(cost / run)}), "
                f"lower quartile of {words.count(len(costs), 'execution')}",
            )
        ]
        if modules:
            evidence.append(
                Evidence(
                    "fact",
                    "The dearest modules: "
                    + ", ".join(f"{each.module} {words_ms(each.total_ns / 1e6)}" for each in modules[:5]),
                    {
                        "imports": [
                            {
                                "module": each.module,
                                "total_ms": round(each.total_ns / 1e6, 3),
                                "self_ms": round(each.self_ns / 1e6, 3),
                                "depth": each.depth,
                            }
                            for each in modules
                        ]
                    },
                )
            )
        if own >= self.limits.import_ms:
            evidence.append(
                Evidence(
                    "fact",
                    f"{words_ms(own)} of it is work of the application's own modules while they are imported, "
                    "not of its libraries",
                    {"own_ms": round(own, 3)},
                )
            )
        saving = _saving(executions, costs)
        yield self.finding(
            severity=self._gravity(cost, own, run),
            confidence=0.95 if fork and modules else 0.85,
            title=f"{words_ms(cost)} of imports in each work horse ({words_share(cost / run)} of the run)",
            cost_ms=max(measure.mean(costs), saving[1]),
            saving=saving,
            text=f"Import {', '.join(names[:3])}{' and the others listed' if len(names) > 3 else ''} in the worker "
            "before it forks. The horses inherit what the worker has imported."
            + ("" if fork else " A spawned horse inherits nothing: use a forking worker for this queue."),
            snippet=_snippet(names, modules, history),
            evidence=evidence,
        )

    def _gravity(self, cost: float, own: float, run: float) -> Severity:
        """All of the cost counts once it is heavy; before that, what the application itself does at import."""
        counted = cost if cost >= self.limits.heavy_ms else own
        if counted < self.limits.import_ms:
            return "info"
        severity = self.severity(counted * 0.95, run)
        return "warning" if severity == "critical" and counted < self.limits.critical_ms else severity

    def _modules(self, executions: Sequence[Execution]) -> list[ImportCost]:
        """Modules with their mean cost over the executions that recorded any, the dearest first."""
        recorded = [each for each in executions if each.imports]
        sums: dict[str, tuple[int, int, int]] = {}
        for execution in recorded:
            for module in execution.imports:
                total, own, depth = sums.get(module.module, (0, 0, module.depth))
                sums[module.module] = (total + module.total_ns, own + module.self_ns, min(depth, module.depth))
        number = max(1, len(recorded))
        means = [ImportCost(name, total // number, own // number, depth) for name, (total, own, depth) in sums.items()]
        whole = sum(module.total_ns for module in means if module.depth == 0) or sum(m.self_ns for m in means)
        dear = [module for module in means if module.total_ns >= self.limits.module_share * whole]
        return sorted(dear, key=lambda module: (module.depth, -module.total_ns))[: 2 * _MODULES_NAMED]


def _saving(executions: Sequence[Execution], costs: Sequence[float]) -> tuple[float, float, float]:
    """(low, mid, high) in ms. Whether the rule fires is judged by the lower quartile of the CPU, which a busy host does
    not stretch; what is given back is the mean of the whole time of the imports: with their waits for a processor and
    for files, and with the collections that their objects brought about."""
    walls = [
        max(cost, _wall_ns(execution) / measure.NS_PER_MS) for execution, cost in zip(executions, costs, strict=True)
    ]
    gone = measure.mean(measure.winsorised(walls))
    return measure.give_or_take(0.9 * measure.quantile(costs, 0.25), 0.97 * gone, max(gone, measure.mean(walls)))


def _wall_ns(execution: Execution) -> int:
    return sum(each.total_ns for each in execution.imports if not each.depth)


def _package(name: str) -> str:
    return name.partition(".")[0]


def _own_ms(execution: Execution, job: str) -> float:
    """What the application's modules took by themselves, without the imports below them, and without their part of
    what all imports waited for a processor: a busy host makes no illness of what is loaded in no time."""
    package = _package(job)
    own = sum(each.self_ns for each in execution.imports if each.application or _package(each.module) == package)
    return own * measure.share(execution.ledger_ns("import"), _wall_ns(execution)) / measure.NS_PER_MS


def _snippet(names: Sequence[str], modules: Sequence[ImportCost], history: JobHistory) -> str:
    cost = {module.module: words_ms(module.total_ns / 1e6) for module in modules}
    queue = history.executions[0].queue
    lines = ["# worker.py: what is imported here is inherited by every horse"]
    for name in names[:_MODULES_NAMED]:
        took = f", {cost[name]} in each horse" if name in cost else ""
        lines.append(f"import {name}  # noqa: F401{took}")
    lines += [
        "",
        "from redis import Redis",
        "from jobdoctor import Worker",
        "",
        f'Worker(["{queue}"], connection=Redis()).work()',
    ]
    return "\n".join(lines)
