"""Reports for everybody: axe-core's rules in both themes, and a walk through the page by keyboard alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.browser.chromium import SHIFT, Page

#: axe-core 4.14.1 (MPL-2.0), as its package brings it.
AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text()
OPEN_ALL = 'document.querySelectorAll("details").forEach((one) => { one.open = true; })'
RUN = """axe.run(document, { resultTypes: ["violations"] }).then((found) => found.violations.map(
  (one) => [one.id, one.impact, one.nodes.slice(0, 3).map((node) => node.html.slice(0, 160))]))"""


def violations(page: Page) -> Any:
    page.evaluate(f"window.axe || (() => {{ {AXE} }})()")
    return page.evaluate(RUN)


@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [
        ("pictured", 1440, "light"),
        ("rich", 360, "dark"),
        ("empty", 1440, "dark"),
        ("index", 1440, "light"),
    ],
)
def test_axe_finds_nothing(page: Page, folder: Path, name: str, width: int, scheme: str) -> None:
    page.open(folder / f"{name}.html", width, 900, scheme)
    page.evaluate(OPEN_ALL)
    page.frame()
    assert violations(page) == []


def test_the_theme_is_chosen_by_hand_too(page: Page, folder: Path) -> None:
    """What axe-core found nothing in: the colours of the choice are those of the system's theme."""
    colours = (
        "(() => { const style = getComputedStyle(document.documentElement); return Object.fromEntries([...style]"
        ".filter((one) => one.startsWith('--')).map((one) => [one, style.getPropertyValue(one)])); })()"
    )
    seen = {}
    for scheme in ("dark", "light"):
        page.open(folder / "rich.html", scheme=scheme)
        seen[scheme] = page.evaluate(colours)
    assert len(seen["light"]) > 20
    assert seen["light"] != seen["dark"]
    for chosen in ("dark", "light"):
        page.evaluate("document.querySelector('[data-theme-toggle]').click()")
        assert page.evaluate(colours) == seen[chosen]


def test_tab_reaches_everything_in_order_and_shows_where_it_is(page: Page, folder: Path) -> None:
    page.open(folder / "pictured.html")
    page.evaluate("document.querySelectorAll('details.step').forEach((one) => { one.open = true; })")
    page.frame()
    where = (
        "(() => { const one = document.activeElement; const at = one.getBoundingClientRect(); return [one.tagName,"
        " String(one.getAttribute('class') || ''), getComputedStyle(one).outlineStyle, at.width, at.height]; })()"
    )
    seen = []
    for _ in range(300):
        for kind in ("keyDown", "keyUp"):
            page.send("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        seen.append(page.evaluate(where))
        if seen[-1][0] == "BODY":
            break
    assert seen[-1][0] == "BODY", "a trap: the end of the page was never reached"
    stops = seen[:-1]
    assert stops[0][:2] == ["A", "skip"]
    classes = {one[1].split(" ")[0] for one in stops}
    assert {"wf-rows", "flame", "time-chart", "tool"} <= classes
    assert "SUMMARY" in {one[0] for one in stops}
    for tag, name, outline, width, height in stops:
        assert outline != "none", (tag, name)
        assert min(width, height) > 0, (tag, name)
    # And back: the page is no trap in this direction either.
    page.press("Tab", modifiers=SHIFT)
    assert page.evaluate(where)[0] != "BODY"


def test_the_skip_link_leads_to_the_diagnosis(page: Page, folder: Path) -> None:
    page.open(folder / "rich.html")
    page.press("Tab", "Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_steps_open_by_keyboard(page: Page, folder: Path) -> None:
    page.open(folder / "rich.html")
    page.evaluate("document.querySelector('#batching > summary').focus()")
    page.press("Enter")
    assert page.evaluate("document.querySelector('#batching').open") is True
    page.press("Enter")
    assert page.evaluate("document.querySelector('#batching').open") is False
