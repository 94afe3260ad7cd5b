"""The pytest plugin: the fixture and the marker ``jobdoctor``, and the options ``--jobdoctor-*``.

Every session loads this file, also those that never use it: it imports nothing but pytest, and what it hooks into does
nothing until a test asks for the fixture or has the marker. The substance is in ``jobdoctor.gate``.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from jobdoctor.gate.doctor import Doctor
    from jobdoctor.gate.session import GateSession

BASELINE = ".jobdoctor/baseline.json"
WORKERS = ("fork", "simple", "spawn")
#: Of a collected test with the marker: its budget.
BUDGET = pytest.StashKey[Any]()
#: Of a test that uses the fixture: what it gave.
DOCTOR = pytest.StashKey["Doctor"]()
#: Of a test that failed at its end: at what.
FAILURES = pytest.StashKey[list[Any]]()
#: Of the configuration: what this process gathers; not there before a test uses the plugin.
SESSION = pytest.StashKey["GateSession"]()

_MARKER = (
    "jobdoctor(max_queries, max_calls, max_payload, max_result, max_rss, max_time, max_slowdown, no, idempotent): "
    "what each job that the test records may cost; see docs/pytest.md of jobdoctor"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("jobdoctor", "jobs of RQ")
    group.addoption(
        "--jobdoctor-baseline",
        metavar="FILE",
        help=f"what jobs cost before, to compare with (default: {BASELINE} below the root directory, when it is there)",
    )
    group.addoption(
        "--jobdoctor-update", action="store_true", help="write what jobs cost now to the baseline, and compare nothing"
    )
    group.addoption(
        "--jobdoctor-redis",
        metavar="URL",
        help="server for jobdoctor.enqueue() (default: one that is started for the session)",
    )
    group.addoption("--jobdoctor-report", metavar="DIR", help="write an HTML report for each failed test that has jobs")
    group.addoption(
        "--jobdoctor-format",
        choices=["text", "github"],
        default="text",
        help="how failures are repeated at the end: github makes annotations of a workflow of them",
    )
    group.addoption("--jobdoctor-sarif", metavar="FILE", help="write the failures as SARIF 2.1.0, for code scanning")
    parser.addini("jobdoctor_baseline", "default of --jobdoctor-baseline", default="")
    parser.addini("jobdoctor_redis", "default of --jobdoctor-redis", default="")
    parser.addini(
        "jobdoctor_worker", "how jobdoctor.enqueue() runs a job: fork (default), simple or spawn", default="fork"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)
    worker = config.getini("jobdoctor_worker")
    if worker not in WORKERS:
        raise pytest.UsageError(f"jobdoctor_worker = {worker!r} is none of {', '.join(WORKERS)}; write one of them")
    given = config.getoption("jobdoctor_baseline")
    if given and not config.getoption("jobdoctor_update") and not (config.invocation_params.dir / given).is_file():
        raise pytest.UsageError(f"--jobdoctor-baseline {given}: no such file; run with --jobdoctor-update first")
    config.pluginmanager.register(_Gathered(config), "jobdoctor-gathered")


def pytest_unconfigure(config: pytest.Config) -> None:
    session = config.stash.get(SESSION, None)
    if session is not None:
        session.close()


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    marked = [
        item
        for item in report.result or ()
        if isinstance(item, pytest.Item) and item.get_closest_marker("jobdoctor") is not None
    ]
    if marked:
        from jobdoctor.gate import collection

        problems = collection.problems(marked, BUDGET)
        if problems:
            report.outcome = "failed"
            report.longrepr = "\n".join(problems)
            report.result = []
    return report


@pytest.fixture
def jobdoctor(request: pytest.FixtureRequest) -> Doctor:
    """Runs and records jobs: run(), enqueue(), record(), scales(), assert_idempotent(), timed()."""
    doctor = _session(request.config).doctor(request.node)
    request.node.stash[DOCTOR] = doctor
    return doctor


def _session(config: pytest.Config) -> GateSession:
    session = config.stash.get(SESSION, None)
    if session is None:
        from jobdoctor.gate.session import GateSession

        session = config.stash[SESSION] = GateSession(config)
    return session


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    if FAILURES in item.stash:  # of an earlier try: some plugins run a failed test again
        del item.stash[FAILURES]
    result = yield
    doctor = item.stash.get(DOCTOR, None)
    budget = item.stash.get(BUDGET, None)
    if doctor is not None or budget is not None:
        failures = _session(item.config).check(item, doctor)
        if failures:
            from jobdoctor.gate.failure import render

            item.stash[FAILURES] = failures
            raise pytest.fail.Exception(render(failures), pytrace=False)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.when == "call" and (DOCTOR in item.stash or FAILURES in item.stash):
        # Plain data, which pytest-xdist carries from its workers to the process that writes the files.
        report.__dict__["jobdoctor"] = _session(item.config).told(item, call, report)
    return report


class _Gathered:
    """What the tests of a session told the process that the user started. Workers of pytest-xdist have one, too."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.ran: dict[str, None] = {}
        self.deselected = 0
        self.stopped = False
        self.said: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.ran[report.nodeid] = None
        told = getattr(report, "jobdoctor", None)
        if (
            told is not None and str(report.outcome) != "rerun"
        ):  # as pytest-rerunfailures says of a try that does not count
            self.told.append((report.nodeid, told))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.stopped = self.stopped or report.failed

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        self.deselected += len(items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: Any) -> None:
        self.deselected += getattr(node, "workeroutput", {}).get("jobdoctor_deselected", 0)
        self.stopped = self.stopped or bool(error)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if hasattr(self.config, "workeroutput"):
            self.config.workeroutput["jobdoctor_deselected"] = self.deselected
            return
        if not self.told and not self.config.getoption("jobdoctor_sarif"):
            return
        from jobdoctor.gate import summary

        stopped = self.stopped or bool(session.shouldstop or session.shouldfail) or exitstatus > 1
        partial = summary.narrowed(self.config, deselected=self.deselected, stopped=stopped)
        self.said, written = summary.finish(self.config, self.told, list(self.ran), why_partial=partial)
        if not written and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.told or self.said:
            from jobdoctor.gate import summary

            summary.write(terminalreporter, self.config, self.told, self.said)
