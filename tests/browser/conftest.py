"""One browser and one set of pages for all tests of this folder; each page must load nothing and say nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from jobdoctor.model import Diagnosis, Execution, Mark, Profile, ProfileFrame, Span, Trigger
from jobdoctor.report import html_report
from jobdoctor.report.context import build_context
from jobdoctor.report.index import IndexPage
from tests.browser.chromium import Page, chromium, find
from tests.builders import EPOCH_NS, MS, SECOND, make_execution, make_group, make_history
from tests.report import diagnoses

EXECUTABLE = find()
MARKS = [
    pytest.mark.browser,
    # All in one process: starting a browser takes as long as ten of the tests.
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(
        EXECUTABLE is None and not os.environ.get("JOBDOCTOR_TEST_REQUIRE_BROWSER"),
        reason="no Chromium on the PATH (apt-get install chromium)",
    ),
]
NAMES = ["rich", "empty", "healthy", "hostile", "pictured"]
OTHER_JOB = "app.stock.recount"


@pytest.hookimpl(tryfirst=True)  # before xdist looks for the group
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            for mark in MARKS:
                item.add_marker(mark)


@pytest.fixture(scope="session")
def browser() -> Iterator[Page]:
    assert EXECUTABLE is not None, "JOBDOCTOR_TEST_REQUIRE_BROWSER is set, and there is no Chromium"
    with chromium(EXECUTABLE) as opened:
        yield opened


@pytest.fixture
def page(browser: Page) -> Iterator[Page]:
    """The tab. Whatever a test does: nothing on the console, no dialog, nothing asked for over the network."""
    browser.messages.clear()
    browser.requests.clear()
    # Pages from files share one storage, in which a chosen theme is kept.
    browser.send("Storage.clearDataForOrigin", origin="file://", storageTypes="local_storage")
    yield browser
    browser.evaluate("0")  # what was said until now has arrived
    assert browser.messages == []
    assert [url for url in browser.requests if not url.startswith(("data:", "blob:"))] == []


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reports and their index, as ``report --all`` lays them out; source lines for the first."""
    root = tmp_path_factory.mktemp("pages")
    (root / "app").mkdir()
    (root / "app" / "tasks.py").write_text("\n".join(f"    order_{number} = {'x' * 150}" for number in range(60)))
    rows = []
    for name in NAMES:
        diagnosis = pictured() if name == "pictured" else getattr(diagnoses, name)()
        context = build_context(diagnosis, root)
        links = {diagnosis.history.job: f"{name}.html", OTHER_JOB: "healthy.html"}
        (root / f"{name}.html").write_text(html_report.render(context, links))
        rows.append(IndexPage(context, f"{name}.html"))
    (root / "index.html").write_text(html_report.render_index(rows))
    return root


def pictured() -> Diagnosis:
    """The rich diagnosis with what only the pictures show: threads, a circle of triggers, two profiles, a deploy amid
    retries, and an execution of 20,000 calls."""
    rich = diagnoses.rich()
    executions = list(rich.history.executions)
    push = make_group("enqueue", fingerprint="app.offers.push", callsite="app/tasks.py:70", count=2)
    by_job = Trigger(kind="job", callsite="app/offers.py:9", parent_job="app.offers.push")
    executions = [replace(one, groups=[*one.groups, push], trigger=by_job) for one in executions]
    slowest = max((one for one in executions if one.outcome == "finished"), key=lambda one: one.run_ns)
    executions[executions.index(slowest)] = replace(
        slowest,
        spans=[*slowest.spans, Span(3, 500 * MS, 30 * MS, thread=2), Span(3, 600 * MS, 30 * MS, thread=2, error=True)],
        locks=[replace(wait, start_ns=1_000 * MS, waited_ns=600 * MS) for wait in slowest.locks],
        profile=Profile(1.0, 900, SECOND, [ProfileFrame(-1, "only_here", "app/slow.py:1", SECOND, True)]),
    )
    retries = [
        make_execution(
            at_ms=200_000 + number * 2_000, outcome="retried" if number % 2 else "finished", attempt=number % 2 + 1
        )
        for number in range(20)
    ]
    ahead = [
        make_execution(job=OTHER_JOB, at_ms=number * 10_000, wait_ms=0, run_ms=400, worker="worker-1")
        for number in range(1, 9)
    ]
    history = make_history([*executions, *retries], others=ahead)
    return replace(rich, history=replace(history, marks=[Mark("deploy", "3f2a91c", EPOCH_NS + 220 * SECOND)]))


def many_calls(calls: int = 20_000) -> Execution:
    """An execution whose loop makes three kinds of calls."""
    shapes = [make_group("sql"), make_group("redis"), make_group("http")]
    spans = [Span(number % 3, number * 2 * MS, MS, params=number + 1) for number in range(calls)]
    return make_execution(run_ms=2 * calls, groups=shapes, spans=spans)


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of one execution with 20,000 calls."""
    path = tmp_path_factory.mktemp("large") / "large.html"
    healthy = diagnoses.healthy()
    history = make_history([many_calls()])
    path.write_text(html_report.render(build_context(replace(healthy, history=history))))
    return path
