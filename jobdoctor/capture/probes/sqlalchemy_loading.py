"""What SQLAlchemy's ORM loads when it is touched: lazy relationships, deferred columns, dynamic relationships.

The statement is recorded by the dialect's probe, and gets the name of what was touched.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar

from jobdoctor.capture import recorder
from jobdoctor.capture.probes.base import Probe, foreign
from jobdoctor.capture.probes.sqlalchemy_dialect import LIBRARY
from jobdoctor.capture.probes.statements import relationship
from jobdoctor.capture.relationships import lazily


def _relationship(loader: Any) -> str:
    return lazily(f"{loader.parent.class_.__name__}.{loader.key}", "select")


def _column(loader: Any) -> str:
    return lazily(f"{loader.parent.class_.__name__}.{loader.key}", "deferred")


def _collection(query: Any) -> str:
    return lazily(f"{type(query.instance).__name__}.{query.attr.key}", "dynamic")


def _named(original: Callable[..., Any], name_of: Callable[[Any], str]) -> Callable[..., Any]:
    @functools.wraps(original)
    def load(self: Any, *args: Any, **kwargs: Any) -> Any:
        if recorder.current is None:
            return original(self, *args, **kwargs)
        try:
            token = relationship.set(name_of(self))
        except Exception as error:
            if foreign(error):
                raise
            return original(self, *args, **kwargs)
        try:
            return original(self, *args, **kwargs)
        finally:
            relationship.reset(token)

    return load


class SqlAlchemyLoadingProbe(Probe):
    """Names of lazy and dynamic relationships and of deferred columns. Their classes were renamed in 2.1."""

    channel: ClassVar[str] = "sql"
    library: ClassVar[str] = LIBRARY
    modules: ClassVar[tuple[str, ...]] = ("sqlalchemy.orm.strategies", "sqlalchemy.orm.dynamic")

    def patch(self, module: ModuleType) -> None:
        """Replace what makes the statement."""
        m: Any = module
        if module.__name__ == "sqlalchemy.orm.strategies":
            lazy = getattr(m, "_LazyLoader", None) or m.LazyLoader
            self.replace(lazy, "_emit_lazyload", lambda original: _named(original, _relationship))
            loader = getattr(m, "_DeferredColumnLoader", None) or m.DeferredColumnLoader
            self.replace(loader, "_load_for_state", lambda original: _named(original, _column))
        else:
            appender = getattr(m, "_AppenderMixin", None) or m.AppenderMixin
            self.replace(appender, "_iter", lambda original: _named(original, _collection))
