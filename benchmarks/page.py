"""How soon a report opens in a browser: one whose slowest execution recorded 20,000 calls, and one of 1,000 executions.

    .venv/bin/python benchmarks/page.py [--quick]

Chromium runs headless; its own start is not measured, and each opening is of a fresh copy of the file. Times are the
page's own, from the start of the navigation: the ``load`` event, the mark that the page sets when the waterfall of the
large execution stands, and how long the page takes to answer a key that zooms (from the key to the next painted frame).
About a minute whole.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.machine import heading
from jobdoctor.diagnosis.engine import diagnose
from jobdoctor.model import Execution, Phase, Profile, ProfileFrame, Sample, Span
from jobdoctor.report import html_report
from jobdoctor.report.context import build_context
from tests.browser.chromium import Page, chromium, find
from tests.builders import MS, make_execution, make_group, make_history

CALLS = 20_000
ROUNDS = 15

#: From the key to the frame after the one in which the page has drawn.
ZOOM = """new Promise((done) => {
  const rows = document.querySelector(".wf-rows");
  const start = performance.now();
  rows.dispatchEvent(new KeyboardEvent("keydown", { key: "+", bubbles: true, cancelable: true }));
  requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - start)));
})"""
#: Tasks over 50 ms keep a page from answering.
BUSY = """new Promise((done) => {
  let most = 0;
  new PerformanceObserver((list) => {
    for (const one of list.getEntries()) most = Math.max(most, one.duration);
  }).observe({ type: "longtask", buffered: true });
  setTimeout(() => done(most), 100);
})"""


def large(calls: int) -> Execution:
    """An execution of 40 s whose loop makes three kinds of calls, with samples and a profile."""
    shapes = [
        make_group("sql", fingerprint="SELECT customers.id, customers.name FROM customers WHERE customers.id = ?"),
        make_group("redis", fingerprint="GET price:{}", callsite="app/prices.py:12"),
        make_group("http", fingerprint="GET https://api.test/stock/{}", callsite="app/stock.py:30"),
    ]
    spans = [Span(number % 3, (50 + 2 * number) * MS, MS + number * 37 % MS, params=number) for number in range(calls)]
    frames = [
        ProfileFrame(
            (number - 1) // 2, f"step_{number}", f"app/a{number % 9}.py:{number}", (400 - number) * MS, number % 3 > 0
        )
        for number in range(400)
    ]
    execution = make_execution(run_ms=50 + 2 * calls, groups=shapes, spans=spans)
    return make_execution(
        id=execution.id,
        job_id=execution.job_id,
        run_ms=50 + 2 * calls,
        groups=shapes,
        spans=spans,
        phases=[Phase("import", 0, 40 * MS), Phase("body", 40 * MS, (49 + 2 * calls) * MS)],
        samples=[
            Sample(execution.dequeued_at_ns + at * 40 * MS, at * 9 * MS, 60_000_000 + at * 9_000, at * MS, "socket")
            for at in range(1, 1_000)
        ],
        profile=Profile(1.0, 4_000, 400 * MS, frames),
    )


def pages() -> dict[str, tuple[str, float]]:
    """HTML and the CPU time it took to make, by name."""
    spans = [Span(0, number * MS, 300_000, params=number) for number in range(60)]
    usual = [
        make_execution(at_ms=number * 1_000, run_ms=80 + number % 37, groups=[make_group(count=60)], spans=spans)
        for number in range(1_000)
    ]
    made = {}
    for name, executions in (
        (f"one execution of {CALLS:,} calls", [large(CALLS), *usual[:5]]),
        ("1,000 executions", [large(4_096), *usual[1:]]),
    ):
        diagnosis = diagnose(make_history(executions))
        times = []
        for _ in range(4):
            start = time.process_time()
            html = html_report.render(build_context(diagnosis))
            times.append(time.process_time() - start)
        made[name] = (html, statistics.median(times[1:]))  # the first one compiles the templates
    return made


def opened(page: Page, html: str, folder: Path, number: int) -> tuple[float, float, float, float]:
    """Load event, waterfall drawn, longest task, answer to a key; all in ms."""
    path = folder / f"{number}.html"
    path.write_text(html)
    page.open(path)
    page.wait("performance.getEntriesByName('jobdoctor-execution-drawn').length")
    load = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    drawn = page.evaluate("performance.getEntriesByName('jobdoctor-execution-drawn')[0].startTime")
    busy = page.evaluate(BUSY)
    zooms = [page.evaluate(ZOOM) for _ in range(4)]
    path.unlink()
    return load, drawn, busy, statistics.median(zooms)


def row(name: str, html: str, made_s: float, times: list[tuple[float, float, float, float]]) -> str:
    cells = [
        f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"
        for values in zip(*times, strict=True)
    ]
    return f"| {name} | {len(html.encode()) / 1e3:,.0f} | {made_s * 1e3:,.0f} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    rounds = 3 if parser.parse_args().quick else ROUNDS
    executable = find()
    if executable is None:
        sys.exit("No Chromium on the PATH: apt-get install chromium")
    made = pages()
    times: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in made}
    loads = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder, chromium(executable) as page:
        for number in range(rounds + 1):
            for name, (html, _) in made.items():
                measured = opened(page, html, Path(folder), number)
                if number:  # the first one of each warms the browser up
                    times[name].append(measured)
            print(f"round {number} of {rounds}", file=sys.stderr)
    loads.append(os.getloadavg()[0])
    print("# How soon a report opens\n")
    print(heading("benchmarks/page.py", loads) + f" Headless Chromium, 1440 by 900 pixels, {rounds} openings each.\n")
    print("Times are medians in ms (least to most), from the start of the navigation where they are instants.\n")
    print("| report | kB | made in ms of CPU | load event | waterfall drawn | longest task | frame after a key |")
    print("|---|---|---|---|---|---|---|")
    for name, (html, made_s) in made.items():
        print(row(name, html, made_s, times[name]))


if __name__ == "__main__":
    main()
