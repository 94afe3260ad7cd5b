"""The pictures, used as people use them: by mouse, wheel and keyboard."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.browser.chromium import CONTROL, SHIFT, Page

SCHEMA = json.loads((Path(__file__).parents[1] / "report" / "speedscope.schema.json").read_text())
#: The waterfall that is in sight.
ROWS = "#executions .panel:not([hidden]) .wf-rows"
READOUT = "#executions .panel:not([hidden]) .tools .readout"
OPEN_STEPS = "document.querySelectorAll('details.step').forEach((one) => { one.open = true; })"


def shown(page: Page, folder: Path, name: str = "pictured", **size: Any) -> None:
    page.open(folder / f"{name}.html", **size)
    page.evaluate(OPEN_STEPS)
    page.frame()
    page.wait(f"document.querySelector({ROWS!r}) && document.querySelector({ROWS!r}).children.length")


def rows(page: Page) -> list[str]:
    """What the rows in sight say to a screen reader."""
    found: list[str] = page.evaluate(
        f"[...document.querySelectorAll({ROWS + ' .wf-row > .sr'!r})].map((one) => one.textContent)"
    )
    return found


def text(page: Page, selector: str) -> str:
    found: str = page.evaluate(f"document.querySelector({selector!r}).textContent")
    return found


def focus(page: Page, selector: str = ROWS) -> None:
    page.evaluate(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center', behavior: 'instant'}})")
    page.evaluate(f"document.querySelector({selector!r}).focus({{preventScroll: true}})")
    page.frame()


def choose(page: Page, title: str) -> None:
    """Another execution, by its tab."""
    page.evaluate(
        f"[...document.querySelectorAll('[data-tab]')].find((one) => one.textContent.includes({title!r})).click()"
    )
    page.frame()


# ----------------------------------------------------------------------------------------------------------- waterfall


def test_an_n_plus_one_is_one_row_that_opens_and_closes(page: Page, folder: Path) -> None:
    shown(page, folder)
    closed = rows(page)
    many = next(index for index, one in enumerate(closed) if one.startswith("412 calls of SELECT customers"))
    row = f"{ROWS} .wf-row:nth-child({many + 1})"
    assert page.evaluate(f"document.querySelector({row!r}).getAttribute('aria-expanded')") == "false"
    page.click(row, 40, 10)
    height = page.evaluate(f"document.querySelector({ROWS + ' .wf-space'!r}).offsetHeight")
    assert height == (len(closed) + 412) * 24
    assert rows(page)[many + 1].startswith("SELECT customers")
    assert len(rows(page)) < 60  # those out of sight do not exist
    page.click(row, 40, 10)
    assert rows(page) == closed


def test_the_keyboard_walks_opens_and_zooms(page: Page, folder: Path) -> None:
    shown(page, folder)
    focus(page)
    page.press("Home")
    selected = f"document.querySelector({ROWS + ' [aria-selected=true]'!r})"
    said = f"{selected}.firstChild.textContent"
    assert page.evaluate(said).startswith("Phases: fork")
    while not page.evaluate(said).startswith("412 calls"):
        page.press("ArrowDown")
    page.press("ArrowRight", "ArrowRight", "ArrowDown", "ArrowDown")
    assert page.evaluate(said).startswith("SELECT customers")
    assert page.evaluate(f"{selected}.id") == page.evaluate(
        f"document.querySelector({ROWS!r}).getAttribute('aria-activedescendant')"
    )
    whole = text(page, READOUT)
    page.press("Enter")
    near = text(page, READOUT)
    assert "from dequeue" in whole
    assert near.startswith(("95.", "0.095")), near  # the third call: 96 ms to 103.7 ms
    page.press("+")
    assert text(page, READOUT) != near
    page.press("0")
    assert text(page, READOUT) == whole
    page.press("ArrowLeft", "ArrowLeft")
    assert page.evaluate(f"{selected}.getAttribute('aria-expanded')") == "false"


def test_the_mouse_zooms_pans_and_comes_back(page: Page, folder: Path) -> None:
    shown(page, folder)
    focus(page)
    at = page.box(ROWS)
    y = at["top"] + 60
    left, right = at["left"] + at["width"] * 0.5, at["left"] + at["width"] * 0.7
    whole = text(page, READOUT)
    page.drag((left, y), (right, y))
    dragged = text(page, READOUT).split(" · ")[0]
    assert dragged != whole
    page.drag((right, y), (left, y), modifiers=SHIFT)
    panned = text(page, READOUT).split(" · ")[0]
    assert panned not in (dragged, whole)
    page.wheel(left, y, down=-100, modifiers=CONTROL)
    wheeled = text(page, READOUT).split(" · ")[0]
    assert wheeled != panned
    page.wheel(left, y, across=-80)
    assert text(page, READOUT).split(" · ")[0] != wheeled
    page.click(ROWS, at["width"] * 0.6, 60, clicks=2)
    page.mouse("mouseMoved", 5, 5)
    page.frame()
    assert text(page, READOUT) == whole


def window(page: Page) -> tuple[float, float]:
    """The stretch that the waterfall shows, in seconds."""
    words = text(page, READOUT).split(" · ")[0]
    first, last = words.split(" to ")

    def seconds(tick: str) -> float:
        number, _, unit = tick.partition(" ")
        return float(number) / (1000 if unit == "ms" else 1)

    return seconds(first), seconds(last)


def test_fingers_zoom_pan_and_tap(page: Page, folder: Path) -> None:
    shown(page, folder, width=360, height=740)
    focus(page)
    whole = text(page, READOUT).split(" · ")[0]
    at = page.box(ROWS)
    y = at["top"] + 60

    def x(part: float) -> float:
        return float(at["left"] + at["width"] * part)

    # Two fingers, apart: what was between them (4 s to 6 s of 10) fills the picture from 10 % to 90 %.
    apart = [((x(0.4 - 0.03 * step), y), (x(0.6 + 0.03 * step), y)) for step in range(11)]
    page.touch([left for left, _ in apart], [right for _, right in apart])
    total = float(whole.split(" ")[0])
    first, last = window(page)
    assert (last - first) / total == pytest.approx(0.25, abs=0.04)
    assert (first + last) / 2 / total == pytest.approx(0.5, abs=0.04)
    # One finger takes it along: to the left, later ones come.
    page.touch([(x(0.8 - 0.05 * step), y) for step in range(9)])
    panned = window(page)
    assert panned[1] - panned[0] == pytest.approx(last - first, abs=0.04 * total)
    assert (panned[0] - first) / total == pytest.approx(0.1, abs=0.04)
    # Together again, and all is there; nothing was chosen meanwhile.
    page.touch([left for left, _ in reversed(apart)], [right for _, right in reversed(apart)])
    page.touch([left for left, _ in reversed(apart)], [right for _, right in reversed(apart)])
    assert text(page, READOUT).split(" · ")[0].startswith(whole.partition(";")[0])
    assert page.evaluate(f"document.querySelector({ROWS + ' [aria-selected=true]'!r}).dataset.row") == "0"
    # A tap says what is there, and the next one elsewhere takes it away.
    row = page.box(f"{ROWS} .wf-run")
    page.touch([(x(0.5), row["top"] + 30)])
    assert page.evaluate("!document.querySelector('.tip').hidden")
    assert page.evaluate(f"document.querySelector({ROWS + ' [aria-selected=true]'!r}).closest('.wf-run') !== null")
    page.touch([(x(0.5), 5)])
    assert page.evaluate("document.querySelector('.tip').hidden")


def test_buttons_do_it_too(page: Page, folder: Path) -> None:
    shown(page, folder)
    said = [text(page, READOUT)]
    for name in ("Zoom in", "Zoom in", "Later", "Earlier", "Zoom out"):
        page.click(f'#executions .panel:not([hidden]) button[aria-label="{name}"]')
        said.append(text(page, READOUT))
    assert len(set(said)) == 4
    assert said[2] == said[4]
    assert said[1] == said[5] or said[5] != said[4]
    page.click('#executions .panel:not([hidden]) button[aria-label="All of the execution"]')
    assert text(page, READOUT) == said[0]


def test_the_tooltip_says_shape_line_and_time(page: Page, folder: Path) -> None:
    shown(page, folder)
    focus(page)
    many = next(index for index, one in enumerate(rows(page)) if one.startswith("412 calls"))
    at = page.box(f"{ROWS} .wf-row:nth-child({many + 1})")
    page.mouse("mouseMoved", at["left"] + at["width"] * 0.5, at["top"] + 12)
    page.frame()
    said = text(page, ".tip")
    for part in ("SELECT customers.id", "app/tasks.py:41", "7.7 ms", "412 calls", "411 different", "Order.customer"):
        assert part in said
    page.mouse("mouseMoved", 5, 5)
    page.frame()
    assert page.evaluate("document.querySelector('.tip').hidden") is True


def test_cpu_and_memory_follow_the_crosshair_and_the_zoom(page: Page, folder: Path) -> None:
    shown(page, folder)
    focus(page)
    at = page.box(ROWS)
    x = round(at["left"] + at["width"] * 0.6)
    page.mouse("mouseMoved", x, at["top"] + 60)
    page.frame()
    cursors = page.evaluate(
        "[...document.querySelectorAll('#executions .panel:not([hidden]) .u-cursor-x')]"
        ".map((one) => one.getBoundingClientRect().left)"
    )
    assert len(cursors) == 2
    assert all(abs(cursor - x) <= 1.5 for cursor in cursors), (cursors, x)
    assert "CPUs" in text(page, READOUT)
    assert "MB" in text(page, READOUT)
    # And the other way round: a part chosen on the memory line is the part of the calls.
    over = page.evaluate(
        "(() => { const two = document.querySelectorAll('#executions .panel:not([hidden]) .u-over');"
        " const one = two[1].getBoundingClientRect(); return [one.left, one.top, one.width]; })()"
    )
    page.drag((over[0] + over[2] * 0.25, over[1] + 20), (over[0] + over[2] * 0.5, over[1] + 20))
    said = text(page, READOUT).split(" · ")[0]
    assert said.startswith("1.1"), said
    assert said.endswith("to 2.3 s"), said


def test_threads_have_rows_of_their_own_and_a_killed_horse_its_last_call(page: Page, folder: Path) -> None:
    shown(page, folder)
    said = rows(page)
    assert "The job's own thread" in said
    below = said[said.index("Thread 2") + 1 :]
    assert [one.partition(",")[0] for one in below] == ["2 calls of GET order:{}"]
    choose(page, "Killed")
    assert any("the last one in flight" in one for one in rows(page))
    assert "in flight" in text(page, f"{ROWS} .wf-flag")


def test_waits_for_locks_stand_above_the_calls(page: Page, folder: Path) -> None:
    shown(page, folder)
    focus(page)
    waits = next(index for index, one in enumerate(rows(page)) if one == "1 wait for locks, 600 ms together")
    at = page.box(f"{ROWS} .wf-row:nth-child({waits + 1})")
    canvas = page.box(f"{ROWS} canvas")
    page.mouse("mouseMoved", canvas["left"] + canvas["width"] * 1.3 / 4.52, at["top"] + 12)
    page.frame()
    assert text(page, ".tip") == "Blocked for 600 ms, from 1.0000 srow lock held by app.stock.recount"


def test_choosing_another_execution_changes_all_of_its_pictures(page: Page, folder: Path) -> None:
    shown(page, folder)
    flame = "document.querySelector('[data-flame]:not([hidden]) .frame').textContent"
    page.wait(f"{flame} === 'only_here'")
    choose(page, "Profiled")
    page.wait(f"{flame} === 'perform_job'")
    profiled = text(page, READOUT)
    assert page.evaluate("document.querySelectorAll('#executions .panel:not([hidden]) .uplot').length") == 2
    choose(page, "Slowest")
    page.wait(f"{flame} === 'only_here'")
    assert text(page, READOUT) != profiled
    choose(page, "Killed")  # it was not profiled: the flame graph stays
    assert page.evaluate(flame) == "only_here"


def test_twenty_thousand_calls_open_and_scroll(page: Page, large: Path) -> None:
    page.open(large)
    page.wait(f"document.querySelector({ROWS!r})")
    row = f"{ROWS} .wf-row:nth-child(2)"
    page.click(row, 40, 10)
    assert page.evaluate(f"document.querySelector({ROWS + ' .wf-space'!r}).offsetHeight") == (4 + 6_667) * 24
    focus(page)
    page.press("End")
    assert len(rows(page)) < 60
    assert rows(page)[-1].startswith("6,666 calls of GET http")
    assert large.stat().st_size < 600_000


def test_without_room_names_stand_above_the_bars(page: Page, folder: Path) -> None:
    shown(page, folder, width=360, height=740)
    label, row = page.box(f"{ROWS} .wf-row:nth-child(3) .wf-label"), page.box(f"{ROWS} .wf-row:nth-child(3)")
    assert label["width"] > row["width"] * 0.6
    assert row["height"] == 40
    page.click(f"{ROWS} .wf-row:nth-child(5)", 60, 8)


# --------------------------------------------------------------------------------------------------------------- flame

FLAME = "[data-flame]:not([hidden])"


def frames(page: Page) -> dict[str, float]:
    """Names and widths of the frames in sight."""
    found: dict[str, float] = page.evaluate(
        f"Object.fromEntries([...document.querySelectorAll({FLAME + ' .frame'!r})]"
        ".map((one) => [one.getAttribute('aria-label').split(',')[0], one.offsetWidth]))"
    )
    return found


def press_button(page: Page, label: str) -> None:
    buttons = f"[...document.querySelectorAll({FLAME + ' button'!r})]"
    page.evaluate(f"{buttons}.find((one) => one.textContent === {label!r}).click()")
    page.frame()


def test_a_click_zooms_into_a_frame_and_again_out(page: Page, folder: Path) -> None:
    shown(page, folder, "rich")
    before = frames(page)
    assert before["perform_job"] > 5 * before["charge"] > 0
    assert "tiny" not in before  # half of a pixel
    page.click(f"{FLAME} .frame[aria-label^=charge]")
    near = frames(page)
    assert near["charge"] >= page.box(f"{FLAME} .flame")["width"] - 2
    assert "do_execute" not in near
    page.click(f"{FLAME} .frame[aria-label^=charge]")
    assert frames(page) == before


def test_fingers_zoom_the_flame_graph_and_a_tap_still_chooses(page: Page, folder: Path) -> None:
    shown(page, folder, "rich", width=360, height=740)
    focus(page, f"{FLAME} .flame")
    before = frames(page)
    at = page.box(f"{FLAME} .flame")
    y, middle = at["top"] + 30, at["left"] + at["width"] / 2
    page.touch([(middle - 30 - 10 * step, y) for step in range(7)], [(middle + 30 + 10 * step, y) for step in range(7)])
    near = frames(page)
    assert near["sync_orders"] > before["charge"]
    assert near["do_execute"] > 1.2 * before["do_execute"]
    page.press("Escape")
    assert frames(page) == before
    frame = page.box(f"{FLAME} .frame[aria-label^=do_execute]")
    page.touch([(frame["left"] + frame["width"] / 2, frame["top"] + 8)])
    assert frames(page)["do_execute"] >= at["width"] - 2
    assert text(page, ".tip .tip-title").startswith("do_execute: ")


def test_the_flame_graph_by_keyboard(page: Page, folder: Path) -> None:
    shown(page, folder, "rich")
    focus(page, f"{FLAME} .flame")
    selected = f"document.querySelector({FLAME + ' [aria-selected=true]'!r}).getAttribute('aria-label')"
    page.press("ArrowDown", "ArrowDown", "ArrowDown", "ArrowRight")
    assert page.evaluate(selected).startswith("charge, 470 ms, 11%, app/payments.py:17")
    whole = frames(page)["charge"]
    page.press("Enter")
    assert frames(page)["charge"] > 3 * whole
    page.press("Escape")
    assert frames(page)["charge"] == whole
    page.press("ArrowUp")
    assert page.evaluate(selected).startswith("sync_orders")


def test_search_marks_frames_and_says_their_share(page: Page, folder: Path) -> None:
    shown(page, folder, "rich")
    focus(page, f"{FLAME} input")
    page.type("sqlalchemy")
    assert text(page, f"{FLAME} [role=status]") == "2 frames, 80% of the time"
    assert page.evaluate(f"document.querySelectorAll({FLAME + ' .hit'!r}).length") == 2
    page.press("Escape")
    assert page.evaluate(f"document.querySelectorAll({FLAME + ' .hit'!r}).length") == 0


def test_library_frames_can_be_left_out(page: Page, folder: Path) -> None:
    shown(page, folder, "rich")
    press_button(page, "Application only")
    assert set(frames(page)) == {"sync_orders", "charge"}


def test_the_download_is_a_speedscope_file(page: Page, folder: Path, tmp_path: Path) -> None:
    shown(page, folder, "rich")
    page.send("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    press_button(page, "Download for speedscope")
    path = tmp_path / "app.tasks.sync_orders.speedscope.json"
    deadline = time.monotonic() + 20
    while not path.exists() and time.monotonic() < deadline:
        page.frame()
    document = json.loads(path.read_text())
    jsonschema.validate(document, SCHEMA)
    assert document["profiles"][0]["unit"] == "nanoseconds"
    assert len(document["profiles"][0]["events"]) == 14


# ------------------------------------------------------------------------------------------------- charts and graphs


@pytest.mark.parametrize("key", ["retries", "waits"])
def test_charts_over_time_by_keyboard(page: Page, folder: Path, key: str) -> None:
    shown(page, folder)
    chart = f"[data-time-chart=chart-{key}]"
    page.wait(f"document.querySelector('{chart} .uplot')")
    focus(page, f"{chart} .time-chart")
    page.press("ArrowRight")
    page.frame()
    first = text(page, f"{chart} .readout")
    assert first.startswith("2026-01-01 00:00:")
    page.press("ArrowRight")
    page.frame()
    assert text(page, f"{chart} .readout") != first
    page.press("+", "0")


def test_the_course_is_zoomed_by_the_mouse(page: Page, folder: Path) -> None:
    page.open(folder / "pictured.html")
    chart = "#course .panel:not([hidden]) [data-time-chart$=run]"
    page.wait(f"document.querySelector({chart + ' .uplot'!r})")
    page.click(f"{chart} .u-over", 5, 50)
    over = page.box(f"{chart} .u-over")
    ticks = f"[...document.querySelectorAll({chart!r})][0].querySelector('canvas').toDataURL()"
    y = over["top"] + 40
    page.mouse("mouseMoved", 5, 5)
    page.frame()
    whole = page.evaluate(ticks)
    page.drag((over["left"] + 60, y), (over["left"] + 160, y))
    page.mouse("mouseMoved", over["left"] + 20, y)
    page.frame()
    assert " · median " in text(page, f"{chart} .readout")
    page.mouse("mouseMoved", 5, 5)
    page.frame()
    assert page.evaluate(ticks) != whole
    focus(page, f"{chart} .time-chart")
    page.press("0")
    assert page.evaluate(ticks) == whole


def test_graphs_are_drawn_by_the_server(page: Page, folder: Path) -> None:
    shown(page, folder)
    locks = text(page, "#locks svg.graph")
    assert "stock.recount" in locks
    assert page.evaluate("document.querySelector('#locks svg.graph a').getAttribute('href')") == "healthy.html"
    triggers = text(page, "#trigger svg.graph")
    assert triggers.count("offers.push") >= 2
    assert page.evaluate("document.querySelectorAll('#trigger .edge.back').length") == 2


def test_the_theme_repaints_what_is_drawn(page: Page, folder: Path) -> None:
    shown(page, folder)
    ink = "document.querySelector('#executions .panel:not([hidden]) .wf-bars').toDataURL()"
    before = page.evaluate(ink)
    page.evaluate("document.querySelector('[data-theme-toggle]').click()")
    page.frame()
    after = page.evaluate(ink)
    page.evaluate("document.querySelector('[data-theme-toggle]').click()")
    page.frame()
    assert before != after
    assert page.evaluate(ink) == before


def test_without_a_script_lists_and_drawings_remain(page: Page, folder: Path) -> None:
    page.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page.open(folder / "pictured.html")
    finally:
        page.send("Emulation.setScriptExecutionDisabled", value=False)
    # DevTools may still ask, though nothing ran when the page was loaded.
    assert page.evaluate("document.querySelectorAll('details[data-fallback][open] svg.when').length") > 4
    assert page.evaluate("document.querySelectorAll('svg.stacks path').length") > 2
    assert page.evaluate("document.querySelectorAll('.wf-rows, .uplot').length") == 0
