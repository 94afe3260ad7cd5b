"""Settings: what the project's file says, what the environment says, and what was asked for, in that order of strength.

The file is the nearest ``jobdoctor.toml``, or ``pyproject.toml`` with a ``[tool.jobdoctor]`` table, from the working
directory upwards::

    [tool.jobdoctor]
    store = "postgresql://jobdoctor@db/jobdoctor"
    profile = "auto"

    [tool.jobdoctor.retention]
    trace_days = 14

    [tool.jobdoctor.slo_ms]
    "app.tasks.sync_orders" = 2000

    [tool.jobdoctor.limits.JD401]
    min_calls = 20

Each setting but the limits has an environment variable: ``JOBDOCTOR_STORE``, ``JOBDOCTOR_RETENTION_TRACE_DAYS``,
``JOBDOCTOR_SLO_MS="app.tasks.sync_orders=2000,app.tasks.send_mail=500"`` and so on. The Redis URL comes from the
variables that ``rq`` reads. Names and values that mean nothing raise ConfigError.
"""

from __future__ import annotations

import difflib
import importlib
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

import msgspec
from msgspec import Meta, Struct, field

from jobdoctor.errors import ConfigError

ProfileMode = Literal["auto", "always", "never"]
Positive = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[int, Meta(ge=0)]

DEFAULT_STORE = "sqlite:///jobdoctor.db"
DEFAULT_REDIS_URL = "redis://localhost:6379/0"
FILE_NAME = "jobdoctor.toml"


class Retention(Struct, frozen=True, forbid_unknown_fields=True):
    """How much the store keeps. Days count from when an execution ended."""

    trace_days: Positive = 7  # rows of single executions, database sessions
    trace_rows: Positive = 200_000  # the newest of them, about 60 MB
    rollup_days: Positive = 90  # minutes become hours after a day
    newest: Positive = 50  # executions kept in full for each job, by reason
    slowest: NotNegative = 10
    failed: NotNegative = 10
    killed: NotNegative = 5
    profiled: NotNegative = 3


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that can be set. Limit names are checked by the diagnosis, which knows the rules."""

    store: str = DEFAULT_STORE  # SQLAlchemy URL
    redis_url: str = DEFAULT_REDIS_URL
    profile: ProfileMode = "auto"
    stream_maxlen: Positive = 10_000  # recordings the stream holds while nobody collects
    retention: Retention = field(default_factory=Retention)
    slo_ms: dict[str, float] = field(default_factory=dict)  # by dotted job name, from enqueue to done
    anti_clogging: bool | None = None  # jobs that break their promise are moved; None: by workers of `run --slo`
    slo_exempt: list[str] = field(default_factory=list)  # jobs, by dotted name, that are never moved
    limits: dict[str, dict[str, float]] = field(default_factory=dict)  # by rule code and limit name


_TABLES = ("retention", "slo_ms", "limits")
_EXAMPLES = {"anti_clogging": "true", "slo_exempt": '["app.tasks.sync_orders"]'}


def load(
    *,
    store: str | None = None,
    redis_url: str | None = None,
    profile: str | None = None,
    directory: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """The settings in force. An argument that is not None wins over the environment, which wins over the file."""
    environ = os.environ if environ is None else environ
    found = _from_file(directory or Path.cwd())
    for name, value in _from_environment(environ).items():
        if name == "retention":
            value = msgspec.structs.replace(found.get(name, Retention()), **value)
        elif name == "slo_ms":
            value = {**found.get(name, {}), **value}
        found[name] = value
    from_rq = _redis_url_of_rq(environ)
    if from_rq is not None:
        found["redis_url"] = from_rq
    for name, argument in (("store", store), ("redis_url", redis_url), ("profile", profile)):
        if argument is not None:
            found[name] = _convert(argument, name, Settings, f"--{'url' if name == 'redis_url' else name}")
    return Settings(**found)


# ---------------------------------------------------------------------------------------------------------------- file


def _from_file(directory: Path) -> dict[str, Any]:
    for folder in (directory, *directory.absolute().parents):
        table = _read(folder / FILE_NAME)
        if table is not None:
            return _checked(table, folder / FILE_NAME, "")
        project = _read(folder / "pyproject.toml") or {}
        tool = project.get("tool", {})
        if isinstance(tool, dict) and "jobdoctor" in tool:
            return _checked(tool["jobdoctor"], folder / "pyproject.toml", "tool.jobdoctor")
    return {}


def _read(path: Path) -> dict[str, Any] | None:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", "make it readable") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}", "correct it") from None


def _checked(table: Any, path: Path, prefix: str) -> dict[str, Any]:
    where = f"{path} [{prefix}]" if prefix else str(path)
    if not isinstance(table, dict):
        raise ConfigError(f"{where} is not a table", f"write [{prefix}] with its settings below")
    settings: dict[str, Any] = {}
    for name, value in table.items():
        _known(name, Settings.__struct_fields__, where)
        if name in _TABLES and not isinstance(value, dict):
            heading = f"{prefix}.{name}" if prefix else name
            raise ConfigError(f"{where} {name} is not a table", f"write [{heading}] with its settings below")
        if name == "retention":
            for key in value:
                _known(key, Retention.__struct_fields__, f"{where} retention")
            settings[name] = Retention(
                **{key: _convert(item, key, Retention, f"{where} retention.{key}") for key, item in value.items()}
            )
        elif name == "slo_ms":
            settings[name] = {job: _number(item, f"{where} slo_ms.{job}") for job, item in _dotted(value).items()}
        elif name == "limits":
            settings[name] = {code: _limits(item, f"{where} limits.{code}") for code, item in value.items()}
        else:
            settings[name] = _convert(value, name, Settings, f"{where} {name}")
    if "store" in settings:
        settings["store"] = _beside(path, settings["store"])
    return settings


def _limits(value: Any, where: str) -> dict[str, float]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} is not a table of limits", "write for example [tool.jobdoctor.limits.JD401]")
    return {name: _number(item, f"{where}.{name}", least=None) for name, item in value.items()}


def _dotted(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """TOML reads an unquoted ``app.tasks.sync = 1`` as tables within tables: a job's dotted name all the same."""
    flat: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, dict):
            flat.update(_dotted(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def _beside(path: Path, store: str) -> str:
    """A relative SQLite file of a project's settings lies beside them, wherever in the project one stands."""
    scheme, separator, file = store.partition(":///")
    if scheme.split("+")[0] != "sqlite" or not separator or not file or file.startswith((":memory:", "/", "file:")):
        return store
    return f"{scheme}:///{path.absolute().parent / file}"


# --------------------------------------------------------------------------------------------------------- environment


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in Settings.__struct_fields__:
        variable = f"JOBDOCTOR_{name.upper()}"
        if name not in _TABLES and environ.get(variable):
            value: Any = environ[variable]
            if name == "slo_exempt":
                value = [part.strip() for part in value.split(",") if part.strip()]
            found[name] = _convert(value, name, Settings, variable, strict=False)
    if environ.get("JOBDOCTOR_SLO_MS"):
        found["slo_ms"] = _slos(environ["JOBDOCTOR_SLO_MS"])
    retention: dict[str, Any] = {}
    for name in Retention.__struct_fields__:
        variable = f"JOBDOCTOR_RETENTION_{name.upper()}"
        if environ.get(variable):
            retention[name] = _convert(environ[variable], name, Retention, variable, strict=False)
    if retention:
        found["retention"] = retention
    return found


def _slos(text: str) -> dict[str, float]:
    """ "app.tasks.a=2000,app.tasks.b=500", in ms."""
    slos: dict[str, float] = {}
    for part in text.split(","):
        job, _, value = part.strip().partition("=")
        try:
            number: Any = float(value)
        except ValueError:
            number = value
        slos[job.strip()] = _number(number, f"JOBDOCTOR_SLO_MS {job.strip()}")
    return slos


def _redis_url_of_rq(environ: Mapping[str, str]) -> str | None:
    """The server that ``rq`` would use here (rq.cli.helpers: RQ_REDIS_URL, then RQ_CONFIG's module or the environment
    with REDIS_URL or REDIS_HOST, REDIS_PORT, REDIS_DB, REDIS_PASSWORD, REDIS_SSL). None: none of them is set.
    """
    if environ.get("RQ_REDIS_URL"):
        return environ["RQ_REDIS_URL"]
    source: Mapping[str, Any] = environ
    if environ.get("RQ_CONFIG"):
        try:
            source = vars(importlib.import_module(environ["RQ_CONFIG"]))
        except Exception as error:
            raise ConfigError(
                f"cannot import RQ_CONFIG={environ['RQ_CONFIG']}: {error}", "correct it, or give --url"
            ) from None
    if source.get("REDIS_URL"):
        return str(source["REDIS_URL"])
    if not any(source.get(f"REDIS_{name}") for name in ("HOST", "PORT", "DB", "PASSWORD", "SSL")):
        return None
    secure = str(source.get("REDIS_SSL") or "").lower() in ("y", "yes", "t", "true")
    password = quote(str(source.get("REDIS_PASSWORD") or ""), safe="")
    return (
        f"{'rediss' if secure else 'redis'}://{f':{password}@' if password else ''}"
        f"{source.get('REDIS_HOST') or 'localhost'}:{source.get('REDIS_PORT') or 6379}/{source.get('REDIS_DB') or 0}"
    )


# -------------------------------------------------------------------------------------------------------------- checks


def _known(name: str, known: Iterable[str], where: str) -> None:
    known = list(known)
    if name in known:
        return
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise ConfigError(f"{where} has no setting {name!r}", f"{hint}there are {', '.join(known)}")


def _convert(value: Any, name: str, struct: type[Struct], where: str, *, strict: bool = True) -> Any:
    known = {item.name: item for item in msgspec.structs.fields(struct)}[name]
    try:
        return msgspec.convert(value, known.type, strict=strict)
    except msgspec.ValidationError as error:
        choices = " or ".join(ProfileMode.__args__)  # type: ignore[attr-defined]
        good = choices if known.type is ProfileMode else f"a value like {_EXAMPLES.get(name, repr(known.default))}"
        raise ConfigError(f"{where} = {value!r}: {str(error).lower().replace('`', '')}", f"give {good}") from None


def _number(value: Any, where: str, least: float | None = 0.0) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        raise ConfigError(f"{where} = {value!r} is not a number", "give a number")
    if least is not None and value <= least:
        raise ConfigError(f"{where} = {value!r} is not more than {least:g}", "give a greater number")
    return float(value)
