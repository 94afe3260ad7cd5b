"""Settings: strength of the sources, and errors that list what is right."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobdoctor import config, wire
from jobdoctor.errors import ConfigError


def write(folder: Path, text: str, name: str = "pyproject.toml") -> Path:
    (folder / name).write_text(text)
    return folder


def load(folder: Path, environ: dict[str, str] | None = None, **explicit: str | None) -> config.Settings:
    return config.load(directory=folder, environ=environ or {}, **explicit)


def test_defaults_without_any_file(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert settings == config.Settings()
    assert settings.store == "sqlite:///jobdoctor.db"
    assert settings.redis_url == "redis://localhost:6379/0"
    assert settings.stream_maxlen == wire.DEFAULT_MAXLEN


def test_arguments_beat_the_environment_which_beats_the_file(tmp_path: Path) -> None:
    write(tmp_path, '[tool.jobdoctor]\nstore = "postgresql://file/a"\nprofile = "never"\n')
    assert load(tmp_path).store == "postgresql://file/a"
    environ = {"JOBDOCTOR_STORE": "postgresql://environment/a"}
    assert load(tmp_path, environ).store == "postgresql://environment/a"
    assert load(tmp_path, environ, store="postgresql://argument/a").store == "postgresql://argument/a"
    assert load(tmp_path, environ).profile == "never"


def test_the_nearest_file_with_our_table_is_read(tmp_path: Path) -> None:
    write(tmp_path, '[tool.jobdoctor]\nprofile = "always"\n')
    inner = tmp_path / "services" / "api"
    inner.mkdir(parents=True)
    write(tmp_path / "services", "[tool.other]\nx = 1\n")
    assert load(inner).profile == "always"
    write(inner, 'profile = "never"\n', "jobdoctor.toml")
    assert load(inner).profile == "never"


def test_a_relative_sqlite_file_lies_beside_its_settings(tmp_path: Path) -> None:
    write(tmp_path, '[tool.jobdoctor]\nstore = "sqlite:///recordings.db"\n')
    inner = tmp_path / "src"
    inner.mkdir()
    assert load(inner).store == f"sqlite:///{tmp_path}/recordings.db"
    write(tmp_path, '[tool.jobdoctor]\nstore = "sqlite:////var/recordings.db"\n')
    assert load(inner).store == "sqlite:////var/recordings.db"


def test_tables_of_retention_objectives_and_limits(tmp_path: Path) -> None:
    write(
        tmp_path,
        """
        [tool.jobdoctor.retention]
        trace_days = 3
        [tool.jobdoctor.slo_ms]
        app.tasks.sync_orders = 2000
        "app.tasks.send_mail" = 500.5
        [tool.jobdoctor.limits.JD401]
        min_calls = 20
        """,
    )
    settings = load(tmp_path, {"JOBDOCTOR_RETENTION_TRACE_ROWS": "5000"})
    assert (settings.retention.trace_days, settings.retention.trace_rows, settings.retention.newest) == (3, 5000, 50)
    assert settings.slo_ms == {"app.tasks.sync_orders": 2000.0, "app.tasks.send_mail": 500.5}
    assert settings.limits == {"JD401": {"min_calls": 20.0}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('stroe = "x"', "no setting 'stroe'; did you mean store? there are store, redis_url, profile"),
        ("zebra = 1", "there are store, redis_url"),
        ("store = 7", "store = 7: expected str, got int; give a value like 'sqlite:///jobdoctor.db'"),
        ("stream_maxlen = 0", "expected int >= 1"),
        ("stream_maxlen = true", "expected int, got bool"),
        ('profile = "sometimes"', "give auto or always or never"),
        ("retention = 7", "retention is not a table; write [tool.jobdoctor.retention]"),
        ("retention.trace_day = 7", "did you mean trace_days?"),
        ('retention.trace_days = "7"', "retention.trace_days = '7': expected int, got str"),
        ('slo_ms."app.sync" = "fast"', "slo_ms.app.sync = 'fast' is not a number"),
        ('slo_ms."app.sync" = 0', "is not more than 0"),
        ("limits.JD401 = 3", "limits.JD401 is not a table of limits"),
        ("limits.JD401.min_calls = false", "limits.JD401.min_calls = False is not a number"),
    ],
)
def test_what_means_nothing_is_said(tmp_path: Path, text: str, said: str) -> None:
    write(tmp_path, f"[tool.jobdoctor]\n{text}\n")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    assert said in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, "[tool.jobdoctor\n")
    with pytest.raises(ConfigError, match=r"pyproject\.toml is not TOML"):
        load(tmp_path)


def test_a_wrong_environment_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="JOBDOCTOR_STREAM_MAXLEN = 'many'"):
        load(tmp_path, {"JOBDOCTOR_STREAM_MAXLEN": "many"})
    assert load(tmp_path, {"JOBDOCTOR_STREAM_MAXLEN": "77"}).stream_maxlen == 77


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({"RQ_REDIS_URL": "redis://a/1", "REDIS_URL": "redis://b/1"}, "redis://a/1"),
        ({"REDIS_URL": "redis://b/1", "REDIS_HOST": "c"}, "redis://b/1"),
        ({"REDIS_HOST": "c"}, "redis://c:6379/0"),
        ({"REDIS_PORT": "7000", "REDIS_DB": "3"}, "redis://localhost:7000/3"),
        ({"REDIS_HOST": "c", "REDIS_PASSWORD": "p@/s", "REDIS_SSL": "true"}, "rediss://:p%40%2Fs@c:6379/0"),
    ],
)
def test_the_redis_url_is_found_as_rq_finds_it(tmp_path: Path, environ: dict[str, str], url: str) -> None:
    write(tmp_path, '[tool.jobdoctor]\nredis_url = "redis://file/0"\n')
    assert load(tmp_path, environ).redis_url == url
    assert load(tmp_path, environ, redis_url="redis://argument/0").redis_url == "redis://argument/0"


def test_the_module_of_rq_config_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "settings_of_a_test.py").write_text("REDIS_URL = 'redis://module/4'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load(tmp_path, {"RQ_CONFIG": "settings_of_a_test"}).redis_url == "redis://module/4"
    with pytest.raises(ConfigError, match="cannot import RQ_CONFIG=no_such_module"):
        load(tmp_path, {"RQ_CONFIG": "no_such_module"})


def test_slos_of_the_environment_are_added_to_those_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "jobdoctor.toml").write_text('[slo_ms]\n"app.a" = 1\n"app.b" = 2\n')
    settings = load(tmp_path, {"JOBDOCTOR_SLO_MS": "app.b=20, app.c=30.5"})
    assert settings.slo_ms == {"app.a": 1, "app.b": 20, "app.c": 30.5}


@pytest.mark.parametrize("value", ["app.a", "app.a=soon", "app.a=0"])
def test_an_slo_that_is_no_number_is_an_error(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match=r"JOBDOCTOR_SLO_MS app\.a"):
        load(tmp_path, {"JOBDOCTOR_SLO_MS": value})
