"""The HTML report: complete, self-contained, and safe with what strangers wrote."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest
from msgspec.structs import replace

from jobdoctor.model import Recommendation
from jobdoctor.report import html_report
from jobdoctor.report.context import build_context
from jobdoctor.report.index import IndexPage
from tests.report import diagnoses

NAMES = ["rich", "empty", "healthy", "hostile"]
VOID = {"meta", "link", "br", "img", "input", "hr", "wbr"}
#: Elements that SVG and HTML allow to be closed in place.
STATUSES = {"found": "Found", "clear": "Clear", "not_checked": "Not checked", "crashed": "Crashed"}


class Reader(HTMLParser):
    """Tags with their attributes, the text of each kind of element, and whether every tag is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.broken = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in <{tag}>"
        self.broken = tag == "wbr" and bool(self.texts)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag
        self.broken = False

    def handle_data(self, data: str) -> None:
        tag, before = self.open[-1] if self.open else "", ""
        if self.broken:  # a place to break a word is no space
            tag, before = self.texts.pop()
        self.broken = False
        self.texts.append((tag, before + data))

    def text(self) -> str:
        return " ".join(" ".join(data for tag, data in self.texts if tag not in ("style", "script")).split())


def page(name: str) -> str:
    return html_report.render(build_context(getattr(diagnoses, name)()))


@pytest.fixture(scope="module", params=NAMES)
def html(request: pytest.FixtureRequest) -> str:
    return page(request.param)


def test_long_names_may_be_broken_between_their_words_and_addresses_not() -> None:
    said = html_report.prose("held by sample_app.jobs.stock.recount & `a.b` at http://127.0.0.1:8899/a/long/path, f.py")
    assert said == (
        "held by sample_<wbr>app.<wbr>jobs.<wbr>stock.<wbr>recount &amp; <code>a.b</code>"
        " at http://127.0.0.1:8899/a/long/path, f.py"
    )
    assert html_report.breakable("app.<b>_x.1") == "app.&lt;b&gt;_<wbr>x.1"


def test_every_tag_is_closed(html: str) -> None:
    assert Reader(html).open == []


def test_ids_are_unique_and_links_lead_somewhere(html: str) -> None:
    tags = Reader(html).tags
    ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for tag, attrs in tags:
        if tag == "a":
            assert str(attrs["href"]).removeprefix("#") in ids


def test_nothing_is_loaded_from_anywhere(html: str) -> None:
    for tag, attrs in Reader(html).tags:
        assert tag not in ("iframe", "object", "embed", "base", "form", "img")
        assert "src" not in attrs
        if "href" in attrs:
            assert str(attrs["href"]).startswith("#") or (tag, attrs["href"]) == ("link", "data:,")
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)


def test_the_policy_lets_only_our_own_style_and_script_run(html: str) -> None:
    tags = Reader(html).tags
    policy = next(str(attrs["content"]) for _, attrs in tags if attrs.get("http-equiv") == "Content-Security-Policy")
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives["default-src"] == "'none'"
    assert "unsafe" not in policy
    assert directives["base-uri"] == directives["form-action"] == "'none'"
    for element, directive in (("style", "style-src"), ("script", "script-src")):
        contents = re.findall(rf"<{element}>(.*?)</{element}>", html, re.DOTALL)
        assert len(contents) == 1
        digest = base64.b64encode(hashlib.sha256(contents[0].encode()).digest()).decode()
        assert directives[directive] == f"'sha256-{digest}'"


def test_the_library_of_the_charts_brings_its_licence(html: str) -> None:
    assert html.count("Copyright (c) 2022 Leon Sorokin") == 1


def test_no_inline_style_and_no_handler(html: str) -> None:
    """A strict policy would drop them without a word."""
    for tag, attrs in Reader(html).tags:
        assert not [name for name in attrs if name == "style" or name.startswith("on")], tag


def test_a_hostile_recording_stays_text() -> None:
    html = page("hostile")
    reader = Reader(html)
    scripts = [attrs.get("type") for tag, attrs in reader.tags if tag == "script"]
    assert scripts.count(None) == 1
    assert set(scripts) == {None, "application/json"}, "data runs nothing"
    assert "<img" not in html
    assert "\x1b" not in html
    assert "\u202e" not in html
    assert "</script><script>alert(1)</script>" in reader.text()  # as text, and whole
    assert "{{7*7}}" in html


def test_hostile_words_never_become_classes() -> None:
    for tag, attrs in Reader(page("hostile")).tags:
        assert re.fullmatch(r"[A-Za-z0-9_ -]*", attrs.get("class") or ""), tag


def test_the_first_screen_says_it_all() -> None:
    text = Reader(page("rich")).text()
    checklist = text.index("The checklist")
    for said in (
        "app.tasks.sync_orders",
        "Inside and around the job",
        "97% sure",
        "412 queries of one shape from one line",
        "Load the customers of all orders with one query",
        "Where 4.9 s go, from enqueue to reap",
        "SQL 3.0 s 62%",
        "What to do",
        "app/tasks.py:41",
        "saves 3.1 s",
        "of 4.9 s an execution",
        "Of each execution 64%",
        "2.4 s to 3.2 s",
        "selectinload",
        "JD404 repeated-query",
        "4 found · 8 clear · 2 not checked · 1 crashed",
    ):
        assert said in text[:checklist], said


def test_the_first_finding_is_not_said_twice() -> None:
    text = Reader(page("rich")).text()
    assert text[: text.index("The checklist")].count("412 queries of one shape from one line") == 1


def test_a_first_finding_without_code_shows_what_was_seen() -> None:
    diagnosis = diagnoses.rich()
    bare = replace(diagnoses.BEHIND, callsite="", recommendation=Recommendation("queue", "Give it a queue of its own."))
    headline = replace(diagnosis.verdict, headline=f"{bare.title}: give it a queue of its own")
    text = Reader(html_report.render(build_context(replace(diagnosis, findings=[bare], verdict=headline)))).text()
    first_screen = text[: text.index("The checklist")]
    assert "What was seen Held by two jobs" in first_screen
    assert "Give it a queue of its own " in first_screen


def test_below_it_is_the_evidence() -> None:
    text = Reader(page("rich")).text()
    text = text[text.index("The checklist") :]
    for said in (
        "412 calls of one shape with 412 different parameters",
        "SELECT customers.id, customers.name FROM customers WHERE customers.id = ?",
        "kwargs['since']",
        "app.stock.recount",
        "requests.exceptions.HTTPError",
        "app.reports.build_catalogue",
        "app/views.py:88",
        "sync_orders",
        "deploy 3f2a91c",
        "Slowest finished, attempt 1",
        "8 of 40 executions",
        "File reads were not recorded",
        "httpx 0.99 is not known",
        "KeyError in JD305",
        "slope 0.98",
        "wasted 12 ms",
    ):
        assert said in text, said


@pytest.mark.parametrize(("status", "word"), STATUSES.items())
def test_each_status_has_its_own_icon_and_word(status: str, word: str) -> None:
    html = page("rich")
    assert f'class="icon s-{status}' in html
    if status != "found":
        assert f"<b>{word}</b>" in html


@pytest.mark.parametrize("where", ["inside", "around", "both", "none", "unknown"])
def test_each_verdict_has_its_own_picture_and_words(where: str) -> None:
    from msgspec.structs import replace

    diagnosis = diagnoses.rich()
    diagnosis = replace(diagnosis, verdict=replace(diagnosis.verdict, where=where))
    html = html_report.render(build_context(diagnosis))
    assert f'class="verdict v-{where}"' in html
    assert html_report.VERDICT_TITLES[where] in Reader(html).text()


def test_the_index_ranks_by_the_time_to_give_back() -> None:
    rows = []
    for name in ("healthy", "hostile", "empty", "rich"):
        diagnosis = getattr(diagnoses, name)()
        if name != "hostile":
            diagnosis = replace(diagnosis, history=replace(diagnosis.history, job=f"app.{name}"))
        rows.append(IndexPage(build_context(diagnosis), f"{name}.html"))
    html = html_report.render_index(rows)
    reader = Reader(html)
    assert reader.open == []
    links = [attrs["href"] for tag, attrs in reader.tags if tag == "a" and str(attrs["href"]).endswith(".html")]
    assert links[0] == "rich.html"
    assert sorted(map(str, links)) == ["empty.html", "healthy.html", "hostile.html", "rich.html"]
    assert "<img" not in html


def test_reports_are_linked_to_one_another_where_they_lie_together() -> None:
    context = build_context(diagnoses.rich())
    blocker = '<a href="b.html"><code>app.reports.build_catalogue</code></a>'
    assert blocker in html_report.render(context, {"app.reports.build_catalogue": "b.html"})
    assert 'href="index.html"' in html_report.render(context, {"app.other": "o.html"})
    assert ".html" not in html_report.render(context)


def test_a_statement_of_5000_characters_is_cut_where_it_would_fill_the_page() -> None:
    from tests.builders import make_execution, make_group, make_history

    history = make_history([make_execution(groups=[make_group("sql", fingerprint="SELECT " + "x" * 5_000)])])
    html = html_report.render(build_context(replace(diagnoses.rich(), history=history)))
    assert "x" * 500 in html
    assert "x" * 601 not in re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL)


def test_an_empty_index() -> None:
    assert "No job was recorded" in html_report.render_index([])


@pytest.mark.parametrize(
    ("snippet", "language"),
    [
        ("SELECT 1", "sql"),
        ("orders = 1", "python"),
        ("rq worker orders", "bash"),
        ("[tool.jobdoctor]\nstore = 'x'", "toml"),
        ("$ jobdoctor rules", "console"),
    ],
)
def test_snippets_are_highlighted_as_what_they_are(snippet: str, language: str) -> None:
    assert html_report._language(snippet) == language
    assert re.sub(r"<[^>]+>", "", str(html_report.code_html(snippet))).replace("&#39;", "'") == snippet


def test_backticks_become_code_and_nothing_else_does() -> None:
    said = html_report.prose("use `a < b` and `x`, not <b>, it`s `")
    assert str(said) == "use <code>a &lt; b</code> and <code>x</code>, not &lt;b&gt;, it`s `"
    assert str(html_report.prose("`<script>`\x1b")) == "<code>&lt;script&gt;</code>\N{REPLACEMENT CHARACTER}"


def test_code_lines_are_one_for_each_line() -> None:
    lines = ["def x():", '    """a', "", '    b"""', "<script>"]
    marked = html_report.code_lines(lines)
    assert len(marked) == len(lines)
    assert all(str(line).count("<span") == str(line).count("</span>") for line in marked)
    assert "&lt;" in marked[-1]


# ------------------------------------------------------------------------------------------------------------- colours


def luminance(colour: str) -> float:
    parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def themes() -> dict[str, dict[str, str]]:
    css = html_report._static("report.css")
    blocks = re.findall(r":root(?:\[[^{]*|:not[^{]*)? \{(.*?)\}", css, re.DOTALL)
    light, dark, chosen = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in blocks[:3])
    assert dark == chosen, "the theme that is chosen and the one that the system asks for"
    return {"light": light, "dark": {**light, **dark}}


CHANNELS = [
    "sql", "redis", "http", "cpu", "lock", "pool", "sleep", "file", "subprocess", "gc", "unpickle", "imports",
    "callbacks", "result", "other", "unexplained", "queue", "dispatch", "fork", "cpu-wait", "persist", "reap",
    "accent",
]  # fmt: skip


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_have_contrast(theme: str) -> None:
    """WCAG 2.2: 4.5 for text, 3 for pictures."""
    colours = themes()[theme]
    for surface in ("page", "surface"):
        for name in CHANNELS:
            assert contrast(colours[name], colours[surface]) >= 3, (theme, name, surface)
        for name in ("ink", "muted", "accent", "critical", "warning", "info", "good", "crash"):
            assert contrast(colours[name], colours[surface]) >= 4.5, (theme, name, surface)
    for name in ("critical", "warning", "info"):
        assert contrast(colours[name], colours[f"{name}-soft"]) >= 4.5, (theme, name)
    for name in ("k-key", "k-str", "k-num", "k-com", "k-fn", "ink", "muted"):
        assert contrast(colours[name], colours["sunk"]) >= 4.5, (theme, name)


def test_every_ledger_part_has_a_colour() -> None:
    from jobdoctor.model import LEDGER_PARTS

    css = html_report._static("report.css")
    for name in LEDGER_PARTS:
        assert re.search(rf"\.c-{name}\b", css), name


def test_what_a_page_carries_is_lean_and_means_the_same() -> None:
    css = html_report._lean(
        "a.css", '/* why\n */\na {\n  color: red; /* x */\n  top: 0;\n}\n\nb::before { content: "a"; }'
    )
    assert css == 'a { color: red; top: 0} b::before { content: "a"}'
    script = html_report._lean("a.js", '// why\n\n  const a = "// b";  // c\n    return\n  a;\n')
    assert script == 'const a = "// b";  // c\nreturn\na;'
    assert html_report._lean("vendor/a.js", "  // kept") == "  // kept"
    for name in html_report.CHART_SCRIPTS:
        if not name.startswith("vendor/"):
            odd = [line for line in html_report._static(name).splitlines() if line.count("`") % 2]
            assert odd == [], f"{name}: a string over several lines would lose its indentation"


@pytest.mark.parametrize("name", html_report.CHART_STYLES)
def test_styles_are_well_formed(name: str) -> None:
    """A browser drops what it cannot read without a word."""
    css = re.sub(r"/\*.*?\*/|\"[^\"]*\"", "", html_report._static(name), flags=re.DOTALL)
    assert css.count("{") == css.count("}")
    for block in re.findall(r"\{([^{}]*)\}", css):
        assert [one for one in block.split(";") if one.strip() and ":" not in one] == []
    assert [rest for rest in re.findall(r"\}([^{}]*)\}", css) if rest.strip()] == []
    assert not re.search(r",\s*\{", css)


def test_a_page_does_not_become_as_long_as_a_name() -> None:
    name = "x" * 50_000
    diagnosis = diagnoses.rich()
    finding = replace(
        diagnosis.findings[0], title=name, name=name, recommendation=Recommendation("batch", name, "a = 1")
    )
    diagnosis = replace(
        diagnosis,
        history=replace(diagnosis.history, job=name),
        findings=[finding],
        verdict=replace(diagnosis.verdict, headline=name),
    )
    html = html_report.render(build_context(diagnosis))
    assert len(html) < len(page("rich")) + 30_000
    assert "x" * 1_000 + " \N{HORIZONTAL ELLIPSIS} (50,000 characters)" in html
