"""Every probe, and how they are installed: at once for what is imported, on import for the rest.

A finder at the head of ``sys.meta_path`` waits for the modules that probes name. It finds the module with everybody
else's finders and lets its loader patch it right after the module's body ran; the loader stays what it was.
``uninstall_all`` takes the finder away.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from threading import RLock
from types import ModuleType
from typing import Any

from msgspec.structs import replace

from jobdoctor.capture.probes.aiohttp_client import AiohttpProbe
from jobdoctor.capture.probes.asyncio_locks import AsyncioLockProbe
from jobdoctor.capture.probes.asyncpg_driver import AsyncpgPoolProbe, AsyncpgProbe
from jobdoctor.capture.probes.base import Probe
from jobdoctor.capture.probes.django_connection import DjangoProbe
from jobdoctor.capture.probes.file_locks import PollingFileLockProbe
from jobdoctor.capture.probes.files import FileProbe
from jobdoctor.capture.probes.gc import GcProbe
from jobdoctor.capture.probes.http_client import HttpClientProbe
from jobdoctor.capture.probes.httpx_client import HttpxProbe
from jobdoctor.capture.probes.imports import ImportProbe
from jobdoctor.capture.probes.locks import FileLockProbe, ThreadLockProbe
from jobdoctor.capture.probes.mail import MailProbe
from jobdoctor.capture.probes.mysqlclient_driver import MysqlclientProbe
from jobdoctor.capture.probes.opentelemetry_bridge import OpenTelemetryProbe
from jobdoctor.capture.probes.psycopg2_driver import Psycopg2Probe
from jobdoctor.capture.probes.psycopg_driver import PsycopgProbe
from jobdoctor.capture.probes.psycopg_pool import PsycopgPoolProbe
from jobdoctor.capture.probes.psycopg_server_cursor import PsycopgServerCursorProbe
from jobdoctor.capture.probes.pymysql_driver import PyMySqlProbe
from jobdoctor.capture.probes.redis_client import RedisProbe
from jobdoctor.capture.probes.redis_cluster import RedisClusterProbe
from jobdoctor.capture.probes.redis_lock import RedisLockProbe
from jobdoctor.capture.probes.redis_pool import RedisPoolProbe
from jobdoctor.capture.probes.sleep import AsyncioSleepProbe, SleepProbe
from jobdoctor.capture.probes.sqlalchemy_dialect import SqlAlchemyProbe
from jobdoctor.capture.probes.sqlalchemy_loading import SqlAlchemyLoadingProbe
from jobdoctor.capture.probes.sqlalchemy_pool import SqlAlchemyPoolProbe
from jobdoctor.capture.probes.sqlite_driver import SqliteProbe
from jobdoctor.capture.probes.subprocesses import SubprocessProbe
from jobdoctor.capture.probes.waits import ThreadWaitProbe
from jobdoctor.model import ProbeStatus

#: In the order of installation. To add a probe: one file and its line.
PROBES: tuple[Probe, ...] = (
    SqliteProbe(),
    PsycopgProbe(),
    PsycopgServerCursorProbe(),
    Psycopg2Probe(),
    AsyncpgProbe(),
    PyMySqlProbe(),
    MysqlclientProbe(),
    SqlAlchemyProbe(),
    DjangoProbe(),
    SqlAlchemyLoadingProbe(),
    SqlAlchemyPoolProbe(),
    PsycopgPoolProbe(),
    AsyncpgPoolProbe(),
    RedisProbe(),
    RedisClusterProbe(),
    RedisPoolProbe(),
    RedisLockProbe(),
    HttpClientProbe(),
    HttpxProbe(),
    AiohttpProbe(),
    FileLockProbe(),
    PollingFileLockProbe(),
    ThreadLockProbe(),
    ThreadWaitProbe(),
    AsyncioLockProbe(),
    SleepProbe(),
    AsyncioSleepProbe(),
    SubprocessProbe(),
    FileProbe(),
    MailProbe(),
    OpenTelemetryProbe(),
    GcProbe(),
    ImportProbe(),
)


_TELLING = ("failed", "active", "absent")


class _LateFinder:
    """Waits for the modules that probes name."""

    def __init__(self, probes: Sequence[Probe]) -> None:
        self.waiting: dict[str, list[Probe]] = {}
        for probe in probes:
            for name in probe.modules:
                self.waiting.setdefault(name, []).append(probe)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The specification that the other finders give, with a loader that patches afterwards."""
        if name not in self.waiting:
            return None
        spec: ModuleSpec | None = None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                break
        if spec is not None and spec.loader is not None:
            try:
                if isinstance(spec.loader, type):  # built into the interpreter, or frozen
                    stand_in: Any = _Loader(self, name, spec.loader)
                    spec.loader = stand_in
                else:
                    self._arm(name, spec.loader)
            except Exception as error:
                for probe in self.waiting[name]:
                    probe.fail(f"{name} was imported by a loader that cannot be followed: {error}")
        return spec

    def _arm(self, name: str, loader: Any) -> None:
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            try:
                del loader.exec_module
            except AttributeError:
                pass
            execute(module)
            self.imported(name, module)

        loader.exec_module = exec_module

    def imported(self, name: str, module: ModuleType) -> None:
        """A module that probes wait for is there."""
        if _installed:
            for probe in self.waiting[name]:
                probe.install(name, module)


class _Loader:
    """Stands in for a loader that is a class, which several modules share, until its module is there."""

    def __init__(self, finder: _LateFinder, name: str, loader: Any) -> None:
        self._finder = finder
        self._name = name
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the loader's own."""
        created: ModuleType | None = self._loader.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        """As the loader's own, which then takes its place again."""
        self._loader.exec_module(module)
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._finder.imported(self._name, module)

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._loader, attribute)


_lock = RLock()
_finder = _LateFinder(PROBES)
_installed = False


def install_all() -> None:
    """Install every probe: now where its library is imported, else when it is. Doing it again does nothing."""
    global _installed
    with _lock:
        if _installed:
            return
        _installed = True
        sys.meta_path.insert(0, _finder)
        for probe in PROBES:
            for name in probe.modules:
                module = sys.modules.get(name)
                if module is not None:
                    probe.install(name, module)


def uninstall_all() -> None:
    """Put everything back as it was."""
    global _installed
    with _lock:
        if not _installed:
            return
        _installed = False
        if _finder in sys.meta_path:
            sys.meta_path.remove(_finder)
        for probe in reversed(PROBES):
            probe.uninstall()


def changes() -> int:
    """Counts up with all that changes what ``statuses`` says."""
    return Probe.changes


def statuses() -> list[ProbeStatus]:
    """What is seen of each library on each channel, for the report: several probes may share the work, and one that
    failed is what is said. A probe without a channel is named when it failed, by its library."""
    found: dict[tuple[str, str], ProbeStatus] = {}
    for probe in PROBES:
        if not probe.channel and not probe.failure:
            continue
        status = probe.status()
        place = (status.channel or status.library, status.library)
        known = found.get(place)
        if known is None or _TELLING.index(status.status) < _TELLING.index(known.status):
            found[place] = status if status.channel else replace(status, channel=place[0])
    return list(found.values())
