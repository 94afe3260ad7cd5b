"""The gallery in reports/ is what today's code makes of the recordings kept there."""

from __future__ import annotations

import lzma
from pathlib import Path

import msgspec
import pytest

from jobdoctor.diagnosis.engine import diagnose
from jobdoctor.model import JobHistory
from reports import gallery

#: What a clone downloads for it, at most.
MOST_BYTES = 3_000_000


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return dict(gallery.pages())


def test_every_page_is_as_the_code_makes_it(pages: dict[str, str]) -> None:
    kept = {path.name: path.read_text(encoding="utf-8") for path in gallery.FOLDER.glob("*.html")}
    assert sorted(kept) == sorted(pages)
    different = [name for name in pages if kept[name] != pages[name]]
    assert not different, "run `make gallery` and look at what has changed"


def test_what_was_planted_comes_first() -> None:
    for code, job in gallery.JOBS.items():
        packed = (gallery.FOLDER / gallery.RECORDINGS / f"{job}{gallery.SUFFIX}").read_bytes()
        diagnosis = diagnose(msgspec.msgpack.decode(lzma.decompress(packed), type=JobHistory))
        found = [finding.code for finding in diagnosis.findings if finding.severity != "info"]
        assert found[:1] == ([code] if code else []), job


def test_it_stays_small() -> None:
    files = [path for path in Path(gallery.FOLDER).rglob("*") if path.suffix in {".html", ".xz"}]
    assert len(files) == 2 * len(gallery.JOBS) + 1
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES


def test_its_links_lead_to_its_own_pages(pages: dict[str, str]) -> None:
    index = pages["index.html"]
    for job in gallery.JOBS.values():
        assert f'href="{job}.html"' in index
