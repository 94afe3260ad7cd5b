"""The report as one HTML file that needs nothing else: no network, no inline styles, one style and one script."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec
from jinja2 import Environment, FileSystemBytecodeCache, PackageLoader, StrictUndefined
from jinja2.bccache import Bucket
from markupsafe import Markup, escape
from msgspec import Struct
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name

from jobdoctor import words
from jobdoctor.model import STEP_TITLES
from jobdoctor.report import charts, deaths, predictions, time_charts
from jobdoctor.report.context import ReportContext
from jobdoctor.report.evidence_table import shown
from jobdoctor.report.findings import LEAST_SAVING_MS
from jobdoctor.report.fitted_code import fitted
from jobdoctor.report.index import IndexPage, build_index
from jobdoctor.report.ledger import PART_TITLES

VERDICT_TITLES = {
    "inside": "Inside the job",
    "around": "Around the job",
    "both": "Inside and around the job",
    "none": "Nothing wrong",
    "unknown": "Not enough data",
}
VERDICT_MEANINGS = {
    "inside": "what to fix is in its own code",
    "around": "what to fix is in the system around it",
    "both": "in its own code, and in the system around it",
    "none": "",
    "unknown": "",
}
STATUS_TITLES = {"found": "Found", "clear": "Clear", "not_checked": "Not checked", "crashed": "Crashed"}

#: What becomes part of the names of CSS classes: words of ours only, never a recorded name.
_CLASS_WORD = re.compile(r"[^a-z_]")

#: The opening one may not follow a word, so that an odd backtick in a name stays what it is.
_BACKTICKS = re.compile(r"(?<!\w)`([^`\n]{1,120})`")

#: Where a long dotted name may be broken, and which words of a sentence are so long.
_JOINT = re.compile(r"(?<=[._])(?=[^\W\d])")
_LONG_WORD = re.compile(r"\S{25,}")

_COMMENT_COLUMN = re.compile(r"(?<=\S) {3,}# ")

_SQL = re.compile(r"^\s*(SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER|WITH|SET|EXPLAIN)\b")
_SHELL = re.compile(r"^\s*(\$ |rq |jobdoctor |pip |export |[A-Z_]+=\S+ \w)")
_TOML = re.compile(r"^\s*\[[\w.]+\]\s*$", re.MULTILINE)


#: What makes up the one style and the one script of a page, in this order.
STYLES = ("report.css", "charts.css")
SCRIPTS = ("report.js",)
CHART_STYLES = ("report.css", "vendor/uPlot.min.css", "charts.css")
CHART_SCRIPTS = (
    "report.js", "vendor/uPlot.iife.min.js", "charts.js", "waterfall.js", "execution.js", "flame.js", "time_charts.js",
)  # fmt: skip

#: Of any recorded text: a page does not become as long as what strangers put into a name.
MOST_CHARACTERS = 1_000
#: Of a snippet: as many as stand beside the user's own lines on a screen of 1280 pixels.
SNIPPET_COLUMNS = 62
#: Of a statement in a table.
SHOWN_CHARACTERS = 600

#: Inside of <script>, HTML knows three ways out: "</script", "<!--" and "<script". None is left without "<".
_JSON_ESCAPES = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def render(context: ReportContext, links: Mapping[str, str] | None = None) -> str:
    """The report of one job. ``links``: where the reports of other jobs lie beside it, with an ``index.html``."""
    title = f"{words.clean(context.job)} · jobdoctor"
    return _page("report.html", CHART_STYLES, CHART_SCRIPTS, title=title, report=context, links=links or {})


def render_index(pages: Sequence[IndexPage]) -> str:
    """The page that lists the reports, the most worker time to give back first."""
    links = {page.context.job: page.href for page in pages}
    return _page("index.html", STYLES, SCRIPTS, title="Jobs · jobdoctor", index=build_index(pages), links=links)


def code_html(text: str, language: str = "") -> Markup:
    """Highlighted code: spans with classes, everything escaped."""
    lexer = get_lexer_by_name(language or _language(text), stripnl=False)
    formatter: HtmlFormatter[str] = HtmlFormatter(nowrap=True, classprefix="k-")
    return Markup(highlight(words.clean(text), lexer, formatter).rstrip("\n"))  # noqa: S704 -- Pygments escapes


def code_lines(lines: Sequence[str]) -> list[Markup]:
    """Lines of Python, highlighted together so that strings over several lines come out right."""
    marked = str(code_html("\n".join(line or " " for line in lines), "python")).split("\n")
    # An excerpt may begin inside a string; the highlighter then still gives one line for each.
    return [Markup(line) for line in marked] + [Markup("")] * (len(lines) - len(marked))  # noqa: S704


def prose(text: str) -> Markup:
    """A sentence with what stands in backticks as code."""
    coded = _BACKTICKS.sub(r"<code>\1</code>", str(escape(_shown(text))))
    return Markup(_LONG_WORD.sub(lambda word: _JOINT.sub("<wbr>", word[0]), coded))  # noqa: S704 -- escaped before


def breakable(text: str) -> Markup:
    """A dotted name that may be broken between its words."""
    return Markup(_JOINT.sub("<wbr>", str(escape(_shown(text)))))  # noqa: S704 -- escaped before


def snippet_html(text: str) -> Markup:
    """A snippet's code. Comments that stand in a column of their own move up to the code: ours is a narrow one."""
    return code_html("\n".join(fitted(_COMMENT_COLUMN.sub("  # ", text), SNIPPET_COLUMNS)))


def clipped(text: str) -> str:
    """A statement as far as it tells statements apart: some have 5,000 characters."""
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + " \N{HORIZONTAL ELLIPSIS}"


def first_sentence(text: str) -> tuple[str, str]:
    """The sentence that says what to do, without its final period, and the rest."""
    first, _, rest = text.partition(". ")
    return first.removesuffix("."), rest


def json_block(value: Any) -> Markup:
    """JSON for a <script type="application/json">: nothing in it ends the element. Unknown numbers are null."""
    text = json.dumps(_cleaned(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.translate(_JSON_ESCAPES))  # noqa: S704 -- no "<" is left


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return _shown(value)
    if isinstance(value, dict):
        return {words.clean(str(key)): _cleaned(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        # Columns of numbers are long.
        return [one if type(one) is int else _cleaned(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return _cleaned(msgspec.to_builtins(value)) if isinstance(value, Struct) else value


def _language(text: str) -> str:
    if _SQL.match(text):
        return "sql"
    if _SHELL.match(text):
        return "console" if text.lstrip().startswith("$ ") else "bash"
    return "toml" if _TOML.search(text) and "def " not in text else "python"


def _shown(text: str) -> str:
    """A recorded text as it is shown: nothing that hides or turns it, and no more of it than a reader reads."""
    text = words.clean(text)
    if len(text) <= MOST_CHARACTERS:
        return text
    return f"{text[:MOST_CHARACTERS]} \N{HORIZONTAL ELLIPSIS} ({words.number(len(text))} characters)"


def _class_word(text: str) -> str:
    return _CLASS_WORD.sub("", text)


def _finalize(value: Any) -> Any:
    return value if isinstance(value, Markup) or not isinstance(value, str) else _shown(value)


class _Compiled(FileSystemBytecodeCache):
    """Compiled templates, in a folder of this user's below the temporary one: a third of a second of each report."""

    def dump_bytecode(self, bucket: Bucket) -> None:
        with suppress(OSError):  # no room is no reason not to write the report
            super().dump_bytecode(bucket)


def _compiled() -> _Compiled | None:
    """None where there is no folder that nobody else can write to."""
    try:
        return _Compiled()
    except (RuntimeError, OSError):
        return None


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("jobdoctor.report"),
        bytecode_cache=_compiled(),
        autoescape=True,
        optimized=False,  # most pages are rendered once, and compiling them takes longer than that
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters |= {
        "duration": words.duration,
        "size": words.size,
        "number": words.number,
        "share": words.share,
        "instant": words.instant,
        "iso": words.iso,
        "code": code_html,
        "prose": prose,
        "breakable": breakable,
        "first_sentence": first_sentence,
        "snippet": snippet_html,
        "json_block": json_block,
        "course_data": time_charts.course_data,
        "class_word": _class_word,
        "shown": shown,
        "bands": charts.bands,
        "columns": charts.columns,
        "clipped": clipped,
        "promise": predictions.sentence,
        "death_heading": deaths.heading,
    }
    environment.globals |= {
        "code_lines": code_lines,
        "count": words.count,
        "least_saving_ms": LEAST_SAVING_MS,
        "verdict_titles": VERDICT_TITLES,
        "verdict_meanings": VERDICT_MEANINGS,
        "status_titles": STATUS_TITLES,
        "step_titles": STEP_TITLES,
        "part_titles": PART_TITLES,
    }
    return environment


def _static(name: str) -> str:
    return files("jobdoctor.report").joinpath("static", name).read_text(encoding="utf-8")


def _source_hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def content_security_policy(style: str, script: str) -> str:
    """Nothing is loaded, nothing is sent, and only our own style and script run."""
    return (
        f"default-src 'none'; style-src {_source_hash(style)}; script-src {_source_hash(script)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _page(template: str, styles: Sequence[str], scripts: Sequence[str], **values: Any) -> str:
    style, script = _joined(styles), _joined(scripts)
    return _environment().get_template(template).render(
        style=Markup(style),  # noqa: S704 -- our own files
        script=Markup(script),  # noqa: S704
        policy=content_security_policy(style, script),
        **values,
    ) + "\n"  # fmt: skip


@cache
def _joined(names: Sequence[str]) -> str:
    return "\n".join(_licence(name) + _lean(name, _static(name)) for name in names)


def _licence(name: str) -> str:
    """Each report is a copy of the library in it: the licence goes along with the script, whose part the style is."""
    vendored = name.startswith("vendor/") and name.endswith(".js")
    return f"/*!\n{_static(name.partition('.')[0] + '.LICENSE')}*/\n" if vendored else ""


def _lean(name: str, text: str) -> str:
    """Our own files without what only their authors read: each report carries them. Lines stay, so no JavaScript
    changes its meaning; none of ours has a string over several lines."""
    if name.startswith("vendor/"):
        return text
    if name.endswith(".css"):
        return re.sub(r"\s+", " ", re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)).replace("; }", "}").strip()
    lines = (line.strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("//"))
