"""What strangers wrote into statements, exceptions, arguments and names stays text, wherever it is shown."""

from __future__ import annotations

import re
from pathlib import Path

from tests.browser.chromium import Page
from tests.report.diagnoses import HOSTILE

#: What parts of the attack would have become.
INJECTED = "document.querySelectorAll('img, iframe, script:not([type]):not(:last-of-type), [onerror], [onload]').length"


def everything_open(page: Page) -> None:
    page.evaluate('document.querySelectorAll("details").forEach((one) => { one.open = true; })')
    page.frame()
    page.wait("document.querySelector('.wf-rows .wf-row') && document.querySelector('.flame .frame')")


def test_nothing_of_it_runs_or_becomes_an_element(page: Page, folder: Path) -> None:
    page.open(folder / "hostile.html")
    everything_open(page)
    assert page.evaluate(INJECTED) == 0
    assert page.evaluate("[...document.scripts].filter((one) => !one.type).length") == 1
    # The test would see nothing in a page that does not show the attack.
    shown = page.evaluate("document.body.innerText")
    assert shown.count("</script><script>alert(1)</script>") >= 5


def test_pictures_show_it_as_text(page: Page, folder: Path) -> None:
    page.open(folder / "hostile.html")
    everything_open(page)
    for selector in (".wf-row code", ".flame .frame"):
        one = f"document.querySelector({selector!r})"
        said = page.evaluate(f"{one}.getAttribute('aria-label') || {one}.textContent")
        assert "</script><script>alert(1)</script><img src=x" in said
        assert "\x1b" not in said
        assert "\u202e" not in said
    # Tooltips are made by scripts.
    for selector in (".wf-row:nth-child(2) .wf-label", ".flame .frame"):
        page.click(selector, 60, 10)
        at = page.box(selector)
        page.mouse("mouseMoved", at["left"] + 70, at["top"] + 9)
        page.frame()
    assert "<img src=x onerror=alert(1)>" in page.evaluate("document.querySelector('.tip').textContent")
    assert page.evaluate(INJECTED) == 0


def test_the_search_of_the_flame_graph_takes_it_as_text(page: Page, folder: Path) -> None:
    page.open(folder / "hostile.html")
    everything_open(page)
    page.evaluate("document.querySelector('.search input').focus()")
    page.type("<img src=x onerror=alert(1)>")
    assert "1 frame" in page.evaluate("document.querySelector('[data-flame] [role=status]').textContent")
    assert page.evaluate(INJECTED) == 0


def test_a_hostile_hash_opens_nothing(page: Page, folder: Path) -> None:
    page.open(folder / "hostile.html")
    for value in ("%", "%3Cimg%20src=x%20onerror=alert(1)%3E", 'a\\"]', "x1%22%5D"):
        page.evaluate(f"(location.hash = {value!r}, new Promise((done) => setTimeout(done, 20)))")
    assert page.evaluate(INJECTED) == 0


def test_data_blocks_hold_no_way_out_of_a_script(folder: Path) -> None:
    html = (folder / "hostile.html").read_text()
    blocks = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', html, re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        assert "<" not in block
        assert "\\u003c/script\\u003e" in block
    assert HOSTILE[:20] not in html.replace("&lt;", "&")
