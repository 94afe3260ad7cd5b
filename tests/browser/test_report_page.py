"""The report in a real Chromium: no errors, no overflow, and a first screen that says what to do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobdoctor.report import html_report
from jobdoctor.report.context import build_context
from tests.browser.chromium import Page, chromium, find
from tests.report import diagnoses

EXECUTABLE = find()
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        EXECUTABLE is None and not os.environ.get("JOBDOCTOR_TEST_REQUIRE_BROWSER"),
        reason="no Chromium on the PATH (apt-get install chromium)",
    ),
]

NAMES = ["rich", "empty", "healthy", "hostile"]
SIZES = {360: 740, 768: 1024, 1440: 900}

#: Elements that reach out of the viewport, other than those that scroll by themselves.
OUTSIDE = """(() => {
  const width = document.documentElement.clientWidth;
  return [...document.querySelectorAll("body *")]
    .filter((one) => !one.closest(".scroll, pre, .sr, .skip, .lane-name"))
    .filter((one) => one.getBoundingClientRect().right > width + 1)
    .map((one) => one.tagName + "." + one.className).slice(0, 5);
})()"""
OPEN_ALL = 'document.querySelectorAll("details").forEach((one) => { one.open = true; })'


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    assert EXECUTABLE is not None, "JOBDOCTOR_TEST_REQUIRE_BROWSER is set, and there is no Chromium"
    with chromium(EXECUTABLE) as opened:
        yield opened


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four reports and the index, with source lines for the first."""
    root = tmp_path_factory.mktemp("pages")
    (root / "app").mkdir()
    (root / "app" / "tasks.py").write_text("\n".join(f"    order_{number} = {'x' * 150}" for number in range(60)))
    rows = []
    for name in NAMES:
        context = build_context(getattr(diagnoses, name)(), root)
        (root / f"{name}.html").write_text(html_report.render(context))
        rows.append(html_report.IndexRow(context, f"{name}.html"))
    (root / "index.html").write_text(html_report.render_index(rows))
    return root


@pytest.mark.parametrize("name", [*NAMES, "index"])
@pytest.mark.parametrize("width", SIZES)
def test_no_error_and_no_overflow(page: Page, folder: Path, name: str, width: int) -> None:
    page.messages.clear()
    page.open(folder / f"{name}.html", width, SIZES[width])
    for step in ("0", OPEN_ALL):
        page.evaluate(step)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(OUTSIDE) == []
    assert page.messages == []


def box(page: Page, selector: str) -> dict[str, float]:
    found: dict[str, float] = page.evaluate(
        f"(() => {{ const one = document.querySelector({selector!r}); const at = one.getBoundingClientRect();"
        " return {top: at.top, bottom: at.bottom, width: at.width, height: at.height}; })()"
    )
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_first_screen_holds_what_to_act_on(page: Page, folder: Path, scheme: str) -> None:
    page.open(folder / "rich.html", 1440, 900, scheme)
    for selector in (
        "h1",
        ".verdict .where",
        ".headline",
        ".stack",
        ".legend",
        "article.first h3",
        "article.first .callsite",
        "article.first .advice",
        "article.first .facts",
        "article.first .source",
        "article.first .how figure:last-child",
    ):
        at = box(page, selector)
        assert at["height"] > 0, selector
        assert at["top"] >= 0, selector
        assert at["bottom"] <= 900, selector
    assert box(page, "article.second h3")["bottom"] <= 900


@pytest.mark.parametrize("width", SIZES)
def test_the_verdict_comes_first_on_small_screens_too(page: Page, folder: Path, width: int) -> None:
    page.open(folder / "rich.html", width, SIZES[width])
    assert box(page, ".headline")["bottom"] <= SIZES[width]


def test_both_themes_are_drawn(page: Page, folder: Path) -> None:
    backgrounds = []
    for scheme in ("light", "dark"):
        page.open(folder / "rich.html", 1440, 900, scheme)
        backgrounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        # The policy would drop an unhashed style without a word in the page.
        assert page.evaluate("getComputedStyle(document.querySelector('.stack rect.c-sql')).fill") != "rgb(0, 0, 0)"
    assert backgrounds[0] != backgrounds[1]


def test_a_link_to_a_finding_opens_it(page: Page, folder: Path) -> None:
    page.open(folder / "rich.html")
    is_open = "document.querySelector('#JD401').closest('details').open"
    assert page.evaluate(is_open) is False
    page.evaluate("document.querySelector('a[href=\"#JD401\"]').click(), new Promise((done) => setTimeout(done, 100))")
    assert page.evaluate(is_open) is True


def test_everything_can_be_opened_at_once(page: Page, folder: Path) -> None:
    page.open(folder / "rich.html")
    page.evaluate("document.querySelector('[data-expand]').click()")
    assert page.evaluate("document.querySelectorAll('details:not([open])').length") == 0
    page.evaluate("document.querySelector('[data-expand]').click()")
    assert page.evaluate("document.querySelectorAll('details[open]').length") == 0


def test_the_keyboard_reaches_findings_and_shows_where_it_is(page: Page, folder: Path) -> None:
    page.open(folder / "rich.html")
    reached = []
    for _ in range(60):
        for kind in ("keyDown", "keyUp"):
            page.send("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        reached.append(
            page.evaluate(
                "document.activeElement.tagName + ' ' + getComputedStyle(document.activeElement).outlineStyle"
            )
        )
    assert reached[0] == "A solid"  # the skip link
    assert "SUMMARY solid" in reached
    assert not [one for one in reached if one.endswith("none") and not one.startswith("BODY")]


def test_a_hostile_recording_runs_nothing(page: Page, folder: Path) -> None:
    page.messages.clear()
    page.open(folder / "hostile.html")
    assert page.evaluate("document.scripts.length") == 1
    assert page.evaluate("document.images.length") == 0
    assert page.messages == []


def test_it_prints_with_everything_open(page: Page, folder: Path) -> None:
    page.open(folder / "rich.html")
    assert page.pdf().startswith(b"%PDF")
    assert page.evaluate("document.querySelectorAll('details[open]').length") == 0  # closed again afterwards
