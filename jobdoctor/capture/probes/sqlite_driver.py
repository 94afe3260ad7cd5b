"""sqlite3: ``connect`` makes connections and cursors that record (``sqlite_types``)."""

from __future__ import annotations

from types import ModuleType
from typing import ClassVar

from jobdoctor.capture.probes.base import Probe


class SqliteProbe(Probe):
    """Statements, commits and rollbacks of sqlite3; SQLAlchemy and Django come through ``sqlite3.dbapi2``."""

    channel: ClassVar[str] = "sql"
    library: ClassVar[str] = "sqlite3"
    modules: ClassVar[tuple[str, ...]] = ("sqlite3", "sqlite3.dbapi2")

    def patch(self, module: ModuleType) -> None:
        """Replace ``connect``."""
        from jobdoctor.capture.probes.sqlite_types import recording_connect

        self.replace(module, "connect", recording_connect)
