"""Reports and their index in a real Chromium: nothing overflows, and the first screen says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser.chromium import Page
from tests.browser.conftest import NAMES

SIZES = {360: 740, 768: 1024, 1440: 900}

#: Elements that reach out of the viewport, other than those that scroll by themselves or are cut on purpose.
OUTSIDE = """(() => {
  const width = document.documentElement.clientWidth;
  return [...document.querySelectorAll("body *")]
    .filter((one) => !one.closest(".scroll, pre, .sr, .skip, .uplot, .wf-rows, .tip"))
    .filter((one) => one.getBoundingClientRect().right > width + 1)
    .map((one) => one.tagName + "." + one.getAttribute("class")).slice(0, 5);
})()"""
OPEN_ALL = 'document.querySelectorAll("details").forEach((one) => { one.open = true; })'


@pytest.mark.parametrize("name", [*NAMES, "index"])
@pytest.mark.parametrize("width", SIZES)
def test_nothing_overflows(page: Page, folder: Path, name: str, width: int) -> None:
    page.open(folder / f"{name}.html", width, SIZES[width])
    for step in ("0", OPEN_ALL):
        page.evaluate(step)
        page.frame()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(OUTSIDE) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_first_screen_holds_what_to_act_on(page: Page, folder: Path, scheme: str) -> None:
    page.open(folder / "rich.html", 1440, 900, scheme)
    for selector in (
        "h1",
        ".verdict .where",
        ".headline",
        ".headline .action",
        ".gain",
        ".vitals",
        "#ledger svg:not(.defs)",
        "details.finding.top summary",
        "details.finding.top .advice",
        "details.finding.top .source",
        "details.finding.top figure.code:last-of-type",
        "details.finding.top:nth-of-type(2) summary",
    ):
        at = page.box(selector)
        assert at["height"] > 0, selector
        assert at["top"] >= 0, selector
        assert at["bottom"] <= 900, selector


@pytest.mark.parametrize("width", SIZES)
def test_the_verdict_comes_first_on_small_screens_too(page: Page, folder: Path, width: int) -> None:
    page.open(folder / "rich.html", width, SIZES[width])
    assert page.box(".headline")["bottom"] <= SIZES[width]
    if width <= 360:
        # The card with the code is further down: the line itself is not.
        assert 0 < page.box(".spot")["bottom"] <= SIZES[width]
        assert page.evaluate("document.querySelector('.spot').textContent").startswith("app/tasks.py:41")
        page.click(".spot")
        assert page.evaluate("document.querySelector('#first-finding').getBoundingClientRect().top") < SIZES[width]


def test_both_themes_are_drawn(page: Page, folder: Path) -> None:
    backgrounds = []
    for scheme in ("light", "dark"):
        page.open(folder / "rich.html", 1440, 900, scheme)
        backgrounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        # The policy would drop an unhashed style without a word in the page.
        assert page.evaluate("getComputedStyle(document.querySelector('#ledger rect.c-sql')).fill") != "rgb(0, 0, 0)"
    assert backgrounds[0] != backgrounds[1]


def test_the_theme_stays_when_the_page_is_opened_again(page: Page, folder: Path) -> None:
    page.open(folder / "rich.html", scheme="light")
    page.click("[data-theme-toggle]")
    chosen = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.open(folder / "index.html", scheme="light")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == chosen


def test_a_link_to_a_finding_opens_it(page: Page, folder: Path) -> None:
    page.open(folder / "rich.html")
    is_open = "document.querySelector('#JD404').closest('details').open && document.querySelector('#batching').open"
    assert page.evaluate(is_open) is False
    page.click('a[href="#JD404"]')
    page.wait(is_open)


def test_a_link_to_an_execution_shows_its_pictures(page: Page, folder: Path) -> None:
    page.open(folder / "pictured.html")
    page.evaluate("location.hash = 'x2'")
    page.wait("!document.getElementById('x2').hidden && document.getElementById('x1').hidden")
    page.wait("document.querySelector('#x2 .wf-rows .wf-row')")


def test_everything_can_be_opened_at_once(page: Page, folder: Path) -> None:
    page.open(folder / "rich.html")
    page.click("[data-expand]")
    assert page.evaluate("document.querySelectorAll('details:not([open])').length") == 0
    page.click("[data-expand]")
    assert page.evaluate("document.querySelectorAll('details[open]').length") == 0


def test_code_is_copied(page: Page, folder: Path) -> None:
    page.open(folder / "rich.html")
    page.evaluate(
        "(window.copied = [], Object.defineProperty(navigator, 'clipboard',"
        " { value: { writeText: async (text) => { window.copied.push(text); } } }), 0)"
    )
    page.click("details.finding.top [data-copy]")
    assert page.evaluate("window.copied.length") == 1
    assert "selectinload(Order.customer)" in page.evaluate("window.copied[0]")
    page.wait("document.querySelector('details.finding.top [data-copy]').textContent === 'Copied'")


def test_the_index_is_sorted_by_a_click_on_a_column(page: Page, folder: Path) -> None:
    page.open(folder / "index.html")
    heads = page.evaluate("document.querySelectorAll('table[data-sortable] th[data-sort] button').length")
    assert heads >= 3
    jobs = "[...document.querySelectorAll('table[data-sortable] tbody tr')].map((one) => one.textContent)"
    before = page.evaluate(jobs)
    orders = set()
    for number in range(1, heads + 1):
        head = f"document.querySelectorAll('table[data-sortable] th[data-sort] button')[{number - 1}]"
        for _ in range(2):
            page.evaluate(f"{head}.click()")
            orders.add(tuple(page.evaluate(jobs)))
            assert page.evaluate(f"{head}.closest('th').getAttribute('aria-sort')") in ("ascending", "descending")
    assert len(orders) >= 2
    assert all(sorted(one) == sorted(before) for one in orders)


def test_links_between_reports_lead_to_files_that_are_there(page: Page, folder: Path) -> None:
    for name in (*NAMES, "index"):
        page.open(folder / f"{name}.html")
        for href in page.evaluate("[...document.querySelectorAll('a[href]')].map((one) => one.getAttribute('href'))"):
            assert href.startswith("#") or (folder / href).is_file(), href


def test_it_prints_with_everything_open(page: Page, folder: Path) -> None:
    page.open(folder / "rich.html")
    before = page.evaluate("document.querySelectorAll('details[open]').length")
    assert page.pdf().startswith(b"%PDF")
    assert page.evaluate("document.querySelectorAll('details[open]').length") == before  # closed again afterwards


def test_on_paper_lists_stand_for_pictures_and_all_executions_are_there(page: Page, folder: Path) -> None:
    page.open(folder / "pictured.html")
    page.frame()
    page.send("Emulation.setEmulatedMedia", media="print")
    try:
        shown = "[...document.querySelectorAll({!r})].map((one) => getComputedStyle(one).display)"
        assert set(page.evaluate(shown.format("#executions .panel"))) == {"block"}
        assert set(page.evaluate(shown.format("tr"))) == {"table-row"}
        assert set(page.evaluate(shown.format(".picture, .tools, nav.steps"))) == {"none"}
    finally:
        page.send("Emulation.setEmulatedMedia", media="")
