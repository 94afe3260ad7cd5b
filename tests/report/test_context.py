"""What the report says, as data."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from msgspec.structs import replace

from jobdoctor.model import (
    Check,
    KeptPrediction,
    LedgerPart,
    Mark,
    Payload,
    PayloadNode,
    Prediction,
    ProbeStatus,
)
from jobdoctor.report import predictions, text_report
from jobdoctor.report.calls import call_table
from jobdoctor.report.charts import BAND_GAP, WIDTH, bands
from jobdoctor.report.context import build_context
from jobdoctor.report.distribution import distribution
from jobdoctor.report.queue_wait import queue_wait
from jobdoctor.report.source import read_source
from tests.builders import EPOCH_NS, MS, make_execution, make_group, make_history, make_row
from tests.report import diagnoses


def test_the_first_screen() -> None:
    context = build_context(diagnoses.rich())
    assert context.job == "app.tasks.sync_orders"
    assert (context.executions, context.looked_at, context.failures) == (40, 8, 2)
    assert [view.finding.code for view in context.top] == ["JD401", "JD701", "JD201"]
    assert context.saving_ms == pytest.approx(3_100 + 520 + 240)
    first = context.top[0]
    assert first.saving_share == pytest.approx(3_100 / context.ledger.wall_ms)
    assert [view.finding.code for view in first.related] == ["JD404"]


def test_saving_is_never_more_than_the_wall_time() -> None:
    diagnosis = diagnoses.rich()
    diagnosis = replace(diagnosis, ledger=[LedgerPart("cpu", "", 100 * MS)])
    context = build_context(diagnosis)
    assert context.saving_ms == 100
    assert context.top[0].saving_share == 1


def test_ledger_sides_and_shares() -> None:
    parts = [
        LedgerPart("unexplained", "", 10 * MS),
        LedgerPart("sql", "a", 40 * MS),
        LedgerPart("sql", "b", 20 * MS),
        LedgerPart("queue_wait", "", 20 * MS),
        LedgerPart("reap", "", 10 * MS),
        LedgerPart("gc", "", 0),
    ]
    ledger = build_context(replace(diagnoses.rich(), ledger=parts)).ledger
    assert ledger.wall_ms == 100
    assert (ledger.inside_ms, ledger.around_ms, ledger.unexplained_share) == (60, 30, 0.1)
    assert [entry.name for entry in ledger.bar] == ["queue_wait", "sql", "reap", "unexplained"]
    assert [(entry.name, entry.detail) for entry in ledger.entries][1:3] == [("sql", "a"), ("sql", "b")]
    assert sum(entry.share for entry in ledger.bar) == pytest.approx(1)


def test_the_run_gets_a_bar_of_its_own_behind_a_long_wait() -> None:
    parts = [LedgerPart("queue_wait", "", 90 * MS), LedgerPart("cpu", "", 8 * MS), LedgerPart("sql", "", 2 * MS)]
    ledger = build_context(replace(diagnoses.rich(), ledger=parts)).ledger
    assert [(entry.name, entry.share) for entry in ledger.run_bar] == [("cpu", 0.8), ("sql", 0.2)]
    assert ledger.run_ms == 10
    assert build_context(diagnoses.rich()).ledger.run_bar == []


def test_info_is_not_counted_as_time_to_give_back() -> None:
    info = replace(diagnoses.BEHIND, severity="info")
    assert build_context(replace(diagnoses.rich(), findings=[diagnoses.SLOW_API, info])).saving_ms == 240


def test_steps_come_in_order_with_the_most_telling_status() -> None:
    steps = build_context(diagnoses.rich()).steps
    assert [step.step for step in steps] == [
        "payload", "external", "internals", "batching", "locks", "retries", "queue", "trigger",
    ]  # fmt: skip
    assert {step.step: step.status for step in steps} == {
        "payload": "clear",
        "external": "found",
        "internals": "crashed",
        "batching": "found",
        "locks": "clear",
        "retries": "clear",
        "queue": "found",
        "trigger": "clear",
    }
    only = [Check("locks", "JD501", "database-lock-wait", "not_checked", "no PostgreSQL")]
    steps = build_context(replace(diagnoses.rich(), checklist=only, findings=[])).steps
    assert {step.status for step in steps} == {"not_checked"}
    half = [*only, Check("locks", "JD502", "application-lock-wait", "clear")]
    most = [*half, Check("locks", "JD503", "pool-wait", "clear")]
    for checks, status in ((half, "not_checked"), (most, "clear")):
        steps = build_context(replace(diagnoses.rich(), checklist=checks, findings=[])).steps
        assert steps[4].status == status


def test_a_related_finding_stands_below_its_main_one_and_in_its_own_step() -> None:
    context = build_context(diagnoses.rich())
    batching = next(step for step in context.steps if step.step == "batching")
    assert [view.finding.code for view in batching.findings] == ["JD401", "JD404"]
    assert len(context.findings) == 3


def test_an_orphan_of_a_main_finding_stands_alone_and_anchors_are_unique() -> None:
    orphan = replace(diagnoses.REPEATED, part_of="JD499")
    twin = replace(diagnoses.N_PLUS_ONE, callsite="app/other.py:1")
    context = build_context(replace(diagnoses.rich(), findings=[diagnoses.N_PLUS_ONE, twin, orphan]))
    assert [view.anchor for view in context.findings] == ["JD401", "JD401-2", "JD404"]


def test_nothing_recorded_is_no_error() -> None:
    context = build_context(diagnoses.empty())
    assert context.ledger.wall_ms == 0
    assert context.capture.overhead_ms is None
    assert context.details == []
    assert context.run_distribution is None
    assert context.top == []


def test_calls_are_merged_over_executions() -> None:
    group = make_group("sql", count=10, ms=20)
    other = make_group("sql", count=1, ms=50, callsite="app/tasks.py:99")
    table = call_table([make_execution(groups=[group, other]), make_execution(groups=[group])])
    assert [(row.callsite, row.count, row.total_ms) for row in table.rows] == [
        ("app/tasks.py:99", 0.5, 25.0),
        ("app/tasks.py:41", 10.0, 20.0),
    ]
    assert table.rows[1].mean_ms == 2.0


def test_what_is_odd_about_calls_is_said() -> None:
    groups = [
        make_group("http", count=4, ms=8, min_ns=MS // 2, no_timeout=4, new_connections=3),
        make_group("sql", count=2, ms=20, min_ns=9 * MS, batched=1, in_transaction=2),
    ]
    rows = call_table([make_execution(groups=groups)]).rows
    assert [(row.channel, row.min_ms, row.flags) for row in rows] == [
        ("sql", 9.0, ["in a transaction", "50% in batches"]),
        ("http", 0.5, ["without a timeout", "75% on a new connection"]),
    ]


def test_attempts_are_counted_by_how_they_ended() -> None:
    execution = make_execution()
    trace = [
        make_row(execution, attempt=attempt, outcome=outcome)
        for attempt, outcome in [(1, "retried"), (1, "finished"), (2, "retried"), (3, "failed"), (1, "finished")]
    ]
    found = build_context(replace(diagnoses.rich(), history=make_history([execution], trace=trace))).attempts
    assert [(row.attempt, row.executions, row.finished) for row in found.rows] == [(1, 3, 2), (2, 1, 0), (3, 1, 0)]


def test_each_step_is_said_in_one_line() -> None:
    gists = {step.step: step.gist for step in build_context(diagnoses.rich()).steps}
    assert gists["payload"] == "2 checks, nothing found"
    assert gists["batching"] == "412 queries of one shape from one line"
    findings = [replace(diagnoses.REPEATED, part_of=None), diagnoses.N_PLUS_ONE]
    graver = build_context(replace(diagnoses.rich(), findings=findings)).steps[3]
    assert graver.gist == "412 queries of one shape from one line", "the gravest, though it does not come first"
    assert gists["internals"] == "KeyError in JD305 sleeping: 'nanosleep'"


def test_many_shapes_are_counted_not_shown() -> None:
    groups = [make_group("sql", fingerprint=f"SELECT {number}", ms=1) for number in range(60)]
    table = call_table([make_execution(groups=groups)])
    assert (len(table.rows), table.left_out, table.left_out_ms) == (40, 20, pytest.approx(20))


def test_who_was_ahead() -> None:
    """Waits 100 ms: 60 behind a heavy job, 30 behind another execution of its own, 10 behind nobody."""
    heavy = make_execution(job="app.heavy", at_ms=-10, wait_ms=10, run_ms=60)
    first = make_execution(at_ms=0, wait_ms=60, run_ms=30)
    second = make_execution(at_ms=0, wait_ms=100, run_ms=5)
    elsewhere = make_execution(job="app.elsewhere", at_ms=0, wait_ms=0, run_ms=100, worker="worker-2")
    history = make_history([second], others=[heavy, first, elsewhere])
    history = replace(history, trace=[row for row in history.trace if row.execution_id == second.id])
    wait = queue_wait(history)
    assert [(row.job, round(row.wait_ms), round(row.share, 2)) for row in wait.rows] == [
        ("app.heavy", 60, 0.6),
        ("app.tasks.sync_orders", 30, 0.3),
    ]
    assert round(wait.other_ms) == 10


def test_profile_folds_library_frames_and_leaves_noise_out() -> None:
    tree = build_context(diagnoses.rich()).profile
    assert tree is not None
    assert [(row.depth, row.function, row.folded, row.hot) for row in tree.rows] == [
        (0, "sync_orders", 2, True),
        (1, "do_execute", 1, True),
        (1, "charge", 0, False),
    ]


def test_distribution_counts_everything_once() -> None:
    values = [0.0, 0.05, 1, 3, 9, 10, 99, 100, 10_000, 10_000]
    spread = distribution(values)
    assert spread is not None
    assert sum(one.count for one in spread.bins) == len(values)
    assert spread.bins[-1].count == 2
    assert (spread.bins[0].low_ms, spread.place(0), spread.place(10_000)) == (0.1, 0, 1)
    assert spread.place(10 ** ((math.log10(0.1) + 4) / 2)) == pytest.approx(0.5)
    assert distribution([5.0]) is None


def test_a_narrow_distribution_is_not_blown_up() -> None:
    spread = distribution([100.0, 100.1, 100.2])
    assert spread is not None
    assert spread.to_ms / spread.from_ms == pytest.approx(1.25)
    assert [one.count for one in spread.bins] == [0, 0, 3, 0, 0]
    assert distribution([7.0, 7.0]) is not None


def test_the_bar_parts_around_from_inside_fills_its_width_and_shows_small_parts() -> None:
    ledger = build_context(diagnoses.rich()).ledger
    found = bands(ledger.bar)
    assert [band.side for band in found] == ["around", "inside", "unexplained"]
    assert found[1].x - (found[0].x + found[0].width) == pytest.approx(BAND_GAP, abs=0.1)
    assert found[-1].x + found[-1].width == pytest.approx(WIDTH, abs=0.1)
    around, inside, unexplained = found
    assert {segment.entry.around for segment in around.segments} == {True}
    assert (around.ms, inside.ms) == (pytest.approx(ledger.around_ms), pytest.approx(ledger.inside_ms))
    assert around.share + inside.share + unexplained.share == pytest.approx(1)
    segments = [segment for band in found for segment in band.segments]
    assert len(segments) == len(ledger.bar)
    assert min(segment.width for segment in segments) > 2
    assert around.segments[-1].x + around.segments[-1].width == pytest.approx(around.x + around.width, abs=0.1)


def test_the_bars_legend_names_the_largest_and_counts_the_rest() -> None:
    names = ["cpu", "sql", "http", "redis", "lock", "sleep", "gc"]
    parts = [LedgerPart(name, "", (number + 1) * 10 * MS) for number, name in enumerate(names)]
    parts += [LedgerPart("unexplained", "", 5 * MS), LedgerPart("reap", "", MS // 100)]
    around, inside, unexplained = bands(build_context(replace(diagnoses.rich(), ledger=parts)).ledger.bar)
    assert [entry.name for entry in inside.named] == ["gc", "sleep", "lock", "redis"]
    assert (inside.others, inside.others_ms) == (3, pytest.approx(60))
    # One that is small stands alone on its side: its name takes no more room than its number.
    assert [entry.name for entry in around.named] == ["reap"]
    assert [entry.name for entry in unexplained.named] == ["unexplained"]
    assert bands([]) == []


def test_capture_says_what_is_missing() -> None:
    capture = build_context(diagnoses.rich()).capture
    http = next(row for row in capture.probes if row.channel == "http")
    assert http.status == "failed"
    assert http.reasons == ["httpx: httpx 0.99 is not known"]
    assert capture.not_captured == [("File reads were not recorded: open() was replaced by another tool", 1)]
    assert (capture.lost, capture.truncated, capture.spans_dropped) == (2, True, 120)
    assert capture.overhead_ms == 9


def test_a_channel_without_any_library_is_absent() -> None:
    execution = make_execution(probes=[ProbeStatus("http", "httpx", "absent"), ProbeStatus("sql", "psycopg", "active")])
    capture = build_context(replace(diagnoses.rich(), history=make_history([execution]))).capture
    assert [(row.channel, row.status) for row in capture.probes] == [("http", "absent"), ("sql", "active")]


def test_exemplars_have_the_deaths_first_and_the_slowest_success() -> None:
    exemplars = build_context(diagnoses.rich()).exemplars
    assert [one.why for one in exemplars[:3]] == ["killed", "failed", "slowest"]


def test_a_few_executions_are_shown_in_full_each_once() -> None:
    context = build_context(diagnoses.rich())
    assert [(one.key, one.title, one.execution.id) for one in context.details] == [
        ("x1", "Slowest", "execution-8"),
        ("x2", "Killed", "execution-3"),
        ("x3", "Failed", "execution-2"),
        ("x4", "Typical", "execution-5"),
        ("x5", "Profiled", "execution-1"),
    ]
    killed = context.details[1]
    assert killed.ledger.wall_ms == pytest.approx(killed.execution.wall_ns / MS)
    assert (killed.calls, killed.peak_rss_bytes) == (428, 104_000_000)
    assert context.details[2].error == "requests.exceptions.HTTPError: ? Server Error for url ?"
    assert {one.execution_id: one.detail for one in context.exemplars}["execution-3"] == "x2"


def test_what_is_shown_in_full_is_in_the_list_too() -> None:
    executions = [make_execution(run_ms=100 + number, at_ms=number * 1_000) for number in range(60)]
    context = build_context(replace(diagnoses.rich(), history=make_history(executions)))
    assert [one.title for one in context.details] == ["Slowest", "Typical", "Newest"][: len(context.details)]
    assert {one.key for one in context.details} == {one.detail for one in context.exemplars if one.detail}


def test_the_slowest_that_finished_is_shown_not_a_slower_failure() -> None:
    executions = [make_execution(run_ms=100), make_execution(outcome="failed", run_ms=900)]
    context = build_context(replace(diagnoses.rich(), history=make_history(executions)))
    assert [(one.title, one.execution) for one in context.details] == [
        ("Slowest", executions[0]),
        ("Failed", executions[1]),
    ]


def test_where_all_failed_the_slowest_of_them_is_shown() -> None:
    executions = [make_execution(outcome="failed", run_ms=100 + number, at_ms=number) for number in range(3)]
    context = build_context(replace(diagnoses.rich(), history=make_history(executions)))
    assert context.details[0].execution is executions[2]


def test_exemplars_are_never_only_failures() -> None:
    executions = [make_execution(outcome="failed") for _ in range(30)] + [make_execution() for _ in range(3)]
    exemplars = build_context(replace(diagnoses.rich(), history=make_history(executions))).exemplars
    assert sum(one.outcome == "finished" for one in exemplars) == 3


def test_the_measured_payload_stands_for_all() -> None:
    executions = [
        make_execution(payload=Payload(9_000)),
        make_execution(payload=Payload(500, nodes=[PayloadNode("args[0]", "str", 400)])),
    ]
    context = build_context(replace(diagnoses.rich(), history=make_history(executions)))
    assert context.payload is not None
    assert context.payload.payload.raw_bytes == 500


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / "app").mkdir(parents=True)
    (root / "app" / "tasks.py").write_text("\n".join(f"line {number}" for number in range(1, 11)))
    (tmp_path / "secret.py").write_text("password = 1\n")
    (root / "app" / "link.py").symlink_to(tmp_path / "secret.py")
    (root / ".env.py").write_text("password = 1\n")
    (root / "notes.txt").write_text("password\n")
    (root / "site-packages").mkdir()
    (root / "site-packages" / "lib.py").write_text("x\n")
    return root


def test_source_lines_around_the_callsite(project: Path) -> None:
    source = read_source(project, "app/tasks.py:5")
    assert source is not None
    assert [(line.number, line.current) for line in source.lines] == [
        (3, False), (4, False), (5, True), (6, False), (7, False),
    ]  # fmt: skip
    assert read_source(project, "app/tasks.py:10") is not None


def test_common_indentation_is_taken_off(project: Path) -> None:
    (project / "app" / "deep.py").write_text("class A:\n        def f():\n\t\t\treturn 1\n\n        x = 2\n")
    source = read_source(project, "app/deep.py:3", around=1)
    assert source is not None
    assert [line.text for line in source.lines] == ["def f():", "    return 1", ""]
    assert source.spot == ["return 1"]


def test_a_line_that_opens_a_bracket_is_said_with_the_next_one(project: Path) -> None:
    (project / "app" / "call.py").write_text("if x:\n    execute(\n        update(A)\n    )\n")
    source = read_source(project, "app/call.py:2")
    assert source is not None
    assert source.spot == ["execute(", "    update(A)"]


def test_what_did_not_finish_is_said_with_its_errors() -> None:
    rich = diagnoses.rich()
    rows = [replace(row, outcome="finished", error_type="") for row in rich.history.trace[:6]]
    rows[0] = replace(rows[0], outcome="failed", error_type="app.errors.Refused")
    rows[1] = replace(rows[1], outcome="retried", error_type="app.errors.Refused")
    rows[2] = replace(rows[2], outcome="killed", error_type="")
    context = build_context(replace(rich, history=replace(rich.history, trace=rows)))
    assert context.failed_with == ["Refused", "killed"]
    assert "did not finish: Refused, killed" in text_report.render(context)


@pytest.mark.parametrize(
    "callsite",
    [
        "../secret.py:1",
        "app/../../secret.py:1",
        "app/link.py:1",
        ".env.py:1",
        "notes.txt:1",
        "site-packages/lib.py:1",
        "app/tasks.py:11",
        "app/tasks.py:0",
        "app/missing.py:1",
        "app:1",
        "",
        "/etc/passwd:1",
        "app/tasks.py:5\0",
    ],
)
def test_source_is_never_read_outside_the_project(project: Path, callsite: str) -> None:
    assert read_source(project, callsite) is None


def test_an_absolute_callsite_is_read_only_inside_the_project(project: Path, tmp_path: Path) -> None:
    assert read_source(project, f"{project}/app/tasks.py:5") is not None
    assert read_source(project, f"{tmp_path}/secret.py:1") is None


def test_source_is_off_unless_asked_for(project: Path) -> None:
    assert all(view.source is None for view in build_context(diagnoses.rich()).findings)
    assert build_context(diagnoses.rich(), project).findings[0].source is None  # line 41 of ten


@pytest.mark.parametrize(
    ("status", "after_ms", "said"),
    [
        ("came true", 400.0, "it is 400 ms, 600 ms given back: as promised"),
        ("less", 1_100.0, "it is 1.1 s, 100 ms slower: less than promised"),
        ("not applied", 990.0, "JD401 is still found, so it was not applied"),
        ("too early", 0.0, "there are 2 executions: too early to tell"),
    ],
)
def test_what_became_of_a_prediction_in_words(status: str, after_ms: float, said: str) -> None:
    promised = Prediction(
        "app.job", "JD401", "app/tasks.py:41", "412 queries", "inside", EPOCH_NS, 1_000, 500, 600, 700
    )
    one = KeptPrediction(promised, Mark("deploy", "3f9c2ab", EPOCH_NS), status, after_ms, 2)  # type: ignore[arg-type]
    sentence = predictions.sentence(one)
    assert sentence.startswith("JD401 promised 600 ms (500 ms to 700 ms) of 1.0 s a run; since deploy 3f9c2ab ")
    assert sentence.endswith(said)
