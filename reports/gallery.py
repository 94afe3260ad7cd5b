"""The gallery beside this file: reports of some of the sample shop's jobs, and the recordings that they are made from.

    make demo DEMO=--keep                       # real servers, real workers: demo/demo.db
    make gallery GALLERY="--store demo/demo.db"   # keep these jobs' recordings, and write the pages
    make gallery                                # write the pages again, after a change of the code

The pages hold no time but the recordings' own: made again from the same recordings they are the same, byte for byte.
A test holds what is in the repository to that.
"""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
from msgspec.structs import replace

from jobdoctor.diagnosis.engine import diagnose
from jobdoctor.model import JobHistory
from jobdoctor.report.context import ReportContext, build_context
from jobdoctor.report.html_report import render, render_index
from jobdoctor.report.index import IndexPage
from jobdoctor.store.store import Store

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "reports"
RECORDINGS = "recordings"
SUFFIX = ".msgpack.xz"

#: One sick job for each of the checklist's steps, one that is killed, and one that is well: rule and job.
JOBS = {
    "JD101": "sample_app.jobs.catalog.make_thumbnail",
    "JD203": "sample_app.jobs.catalog.refresh_product_page",
    "JD301": "sample_app.jobs.catalog.best_prices",
    "JD306": "sample_app.jobs.reports.export_invoices",
    "JD401": "sample_app.jobs.orders.sync_orders",
    "JD501": "sample_app.jobs.stock.reserve_stock",
    "JD604": "sample_app.jobs.payments.capture_payment",
    "JD701": "sample_app.jobs.mail.send_receipt",
    "JD801": "sample_app.jobs.catalog.reindex_product",
    "": "sample_app.jobs.orders.sync_orders_eagerly",
}
#: Full executions that a page can show are few; the diagnosis is made of these.
KEPT_EXECUTIONS = 8
#: Of jobs beside it, the newest rows.
KEPT_ROWS = 400


def keep(store: Store, folder: Path) -> None:
    """Writes the jobs' recordings. A job's newest executions, and what ran beside it."""
    (folder / RECORDINGS).mkdir(parents=True, exist_ok=True)
    for job in JOBS.values():
        history = store.history(job)
        kept = replace(
            history, executions=history.executions[:KEPT_EXECUTIONS], neighbours=history.neighbours[-KEPT_ROWS:]
        )
        path = folder / RECORDINGS / f"{job}{SUFFIX}"
        path.write_bytes(lzma.compress(msgspec.msgpack.encode(kept), preset=9))


def pages(folder: Path = FOLDER) -> Iterator[tuple[str, str]]:
    """(file name, HTML) of each page and of the index, from the recordings."""
    links = {job: f"{job}.html" for job in JOBS.values()}
    rows = []
    for job, name in links.items():
        context = _context(folder / RECORDINGS / f"{job}{SUFFIX}")
        yield name, render(context, links)
        rows.append(IndexPage(context, name))
    yield "index.html", render_index(rows)


def _context(path: Path) -> ReportContext:
    history = msgspec.msgpack.decode(lzma.decompress(path.read_bytes()), type=JobHistory)
    return build_context(diagnose(history), ROOT)


@click.command()
@click.option("--store", metavar="FILE", help="Take the recordings from this store of `jobdoctor demo --keep`.")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), default=FOLDER, help="[default: reports/]")
def main(store: str | None, output: Path) -> None:
    """Write the gallery's pages."""
    if store:
        with Store.open(f"sqlite:///{Path(store).absolute()}") as opened:
            keep(opened, output)
    for name, text in pages(output):
        (output / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
