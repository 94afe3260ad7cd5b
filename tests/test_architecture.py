"""The imports are read, and held against the layers and fences that the project has set itself."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "jobdoctor"

#: What each part of the package may import from the others. Parts that are not named may import everything.
MAY_IMPORT = {
    "model": set(),
    "errors": set(),
    "_version": set(),
    "words": set(),
    "near": set(),
    "promises": {"errors"},
    "wire": {"model", "errors"},
    "config": {"model", "errors", "wire"},
    "fingerprint": {"model", "errors"},
    "capture": {"model", "errors", "config", "fingerprint", "wire"},
    "store": {"model", "errors", "config", "fingerprint", "wire", "_version", "near"},
    "queueing": {"model", "errors", "config", "fingerprint", "near"},
    "diagnosis": {"model", "errors", "config", "fingerprint", "queueing", "words", "promises"},
    "rq": {"model", "errors", "config", "fingerprint", "wire", "capture", "_version", "promises", "words"},
    "pytest_plugin": {"gate"},
    "report": {"model", "errors", "config", "fingerprint", "queueing", "diagnosis", "words", "_version"},
}

#: Which files may import a library: a part of the package or one file of it.
FENCES = {
    "rq": ("rq/",),
    "sqlalchemy": ("store/", "capture/probes/sqlalchemy_dialect.py", "capture/probes/sqlalchemy_pool.py"),
    "psutil": ("capture/sampler.py",),
    "jinja2": ("report/",),
    "click": ("cli/",),
    "rich": ("cli/", "report/"),
    "pytest": ("pytest_plugin.py", "gate/collection.py", "gate/session.py", "gate/summary.py"),
}

#: What a web process or a worker must not load because of us.
HEAVY = ("sqlalchemy", "jinja2", "rich", "pyinstrument", "jobdoctor.store", "jobdoctor.diagnosis", "jobdoctor.report")


@functools.cache
def _imported() -> dict[str, set[str]]:
    """The dotted names that each file of the package imports."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        file = path.relative_to(PACKAGE).as_posix()
        found[file] = set(_imports(ast.parse(path.read_text(encoding="utf-8")), file))
    return found


def _imports(tree: ast.AST, file: str) -> Iterator[str]:
    """Dotted names that a file imports, for type checkers only not counted."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for other in node.orelse:
                yield from _imports(other, file)
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = ["jobdoctor", *Path(file).parent.parts]
                base = ".".join([*parents[: len(parents) - node.level + 1], *([base] if base else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif (
            isinstance(node, ast.Call)
            and (node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", ""))
            in ("import_module", "__import__")
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            yield str(node.args[0].value)
        yield from _imports(node, file)


def _part(name: str) -> str:
    return name.split("/")[0].removesuffix(".py")


def test_layers() -> None:
    wrong = []
    for file, names in _imported().items():
        allowed = MAY_IMPORT.get(_part(file))
        if allowed is None:
            continue
        for name in names:
            parts = name.split(".")
            if (
                parts[0] == "jobdoctor"
                and len(parts) > 1
                and (PACKAGE / parts[1]).exists() | (PACKAGE / f"{parts[1]}.py").exists()
                and parts[1] not in {_part(file), *allowed}
            ):
                wrong.append(f"{file} imports {name}")
    assert not wrong, "\n".join(sorted(wrong))


def test_fences() -> None:
    wrong = []
    for file, names in _imported().items():
        for name in names:
            library = name.split(".")[0]
            places = FENCES.get(library, ("",))
            if not file.startswith(places):
                wrong.append(f"{file} imports {name}")
    assert not wrong, "\n".join(sorted(wrong))


def test_rules_are_pure() -> None:
    """No rule reads a file, a clock, the environment or the network."""
    impure = {"os", "io", "time", "datetime", "random", "socket", "subprocess", "pathlib", "logging", "threading"}
    wrong = [
        f"{file} imports {name}"
        for file, names in _imported().items()
        if file.startswith("diagnosis/checklist/")
        for name in names
        if name.split(".")[0] in impure
    ]
    assert not wrong, "\n".join(sorted(wrong))


@pytest.mark.parametrize("statement", ["import jobdoctor", "import jobdoctor.rq", "from jobdoctor import Worker"])
def test_importing_stays_cheap(statement: str) -> None:
    code = (
        f"import rq, sys; before = set(sys.modules); {statement}\n"
        f"heavy = {HEAVY!r}\n"
        "new = set(sys.modules) - before\n"
        "print([name for name in sorted(new) if name.startswith(tuple(f'{h}.' for h in heavy)) or name in heavy])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert answer.stdout.strip() == "[]"


def test_the_shop_does_not_know_the_doctor() -> None:
    """The sample app is an ordinary application: it runs without jobdoctor."""
    for path in sorted((PACKAGE.parent / "sample_app").rglob("*.py")):
        names = {name.split(".")[0] for name in _imports(ast.parse(path.read_text(encoding="utf-8")), path.name)}
        assert "jobdoctor" not in names, path
