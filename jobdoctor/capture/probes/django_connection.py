"""Django's connections: statements at the cursor's wrapper, commits, and the relationship that a lazy load was for.

What the driver's own probe would see of the same statement is inside this call and counted here once. Outside of
``atomic()`` Django commits each statement by itself: of this library, a write that did not begin in a transaction
(``SpanGroup.in_transaction``) is a commit too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar

from jobdoctor.capture import recorder
from jobdoctor.capture.probes.base import Probe, foreign
from jobdoctor.capture.probes.mysql import is_mysql, mysql
from jobdoctor.capture.probes.statements import (
    Database,
    Statement,
    in_transaction,
    knows_its_session,
    postgresql,
    relationship,
    track,
)
from jobdoctor.capture.recorder import Recorder
from jobdoctor.capture.relationships import lazily

LIBRARY = "django"
_DATABASE = "_jobdoctor_database"

# ---------------------------------------------------------------------------------------------------------- statements


def _target(db: Any) -> str:
    settings = db.settings_dict
    name = str(settings.get("NAME") or "")
    if db.vendor == "sqlite":
        return f"sqlite:///{name.removeprefix('file:').partition('?')[0]}"
    if db.vendor == "postgresql" and knows_its_session(db.connection):
        return postgresql(None, db.connection, db.Database.__name__).target
    if db.vendor == "mysql" and is_mysql(db.connection):
        return mysql(None, db.connection, db.Database.__name__).target
    port = f":{settings['PORT']}" if settings.get("PORT") else ""
    return f"{db.vendor}://{settings.get('HOST') or 'localhost'}{port}/{name}"


def _database(rec: Recorder, db: Any) -> Database:
    """The database behind a Django connection, whose session is noted."""
    database: Database | None = db.__dict__.get(_DATABASE)
    if database is None:
        database = Database(_target(db), LIBRARY)
        db.__dict__[_DATABASE] = database
    if db.vendor == "postgresql" and knows_its_session(db.connection):
        postgresql(rec, db.connection, db.Database.__name__)
    elif db.vendor == "mysql" and is_mysql(db.connection):
        mysql(rec, db.connection, db.Database.__name__)
    return database


def _begin(rec: Recorder, cursor: Any, sql: Any, params: Any, many: bool) -> Statement | None:
    try:
        if not isinstance(sql, (str, bytes)):  # psycopg composes statements of its own
            sql = sql.as_string(cursor.cursor) if hasattr(sql, "as_string") else str(sql)
        return _database(rec, cursor.db).begin(rec, sql, params, many)
    except Exception as error:
        if foreign(error):
            raise
        return None


def _end(rec: Recorder, cursor: Any, statement: Statement, error: BaseException | None) -> None:
    try:
        if error is not None:
            statement.fail(error)
        else:
            raw = cursor.cursor
            rows = raw.rowcount
            follow = getattr(raw, "_jobdoctor_follow", None)
            if follow is not None:  # sqlite3 does not know how many rows it will give
                if statement.sql.effect != "write":
                    rows = None
                follow(statement.call)
            statement.finish(rows if isinstance(rows, int) else None)
        _track(rec, cursor.db)
    except Exception as failure:
        statement.call.end(error)
        if foreign(failure):
            raise


def _track(rec: Recorder, db: Any) -> None:
    """An ``atomic()`` block is a transaction from its beginning, also where the driver opens it with a statement."""
    connection = db.connection
    if connection is not None:
        track(rec, connection, bool(db.in_atomic_block or in_transaction(connection)))


def _execute(original: Callable[..., Any], many: bool) -> Callable[..., Any]:
    @functools.wraps(original)
    def execute(self: Any, sql: Any, *args: Any, **kwargs: Any) -> Any:
        rec = recorder.current
        if rec is None or rec.silent:
            return original(self, sql, *args, **kwargs)
        params = args[0] if args else kwargs.get("param_list" if many else "params")
        statement = _begin(rec, self, sql, params, many)
        if statement is None:
            return original(self, sql, *args, **kwargs)
        try:
            result = original(self, sql, *args, **kwargs)
        except BaseException as error:
            _end(rec, self, statement, error)
            raise
        _end(rec, self, statement, None)
        return result

    return execute


def _callproc(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def callproc(self: Any, procname: Any, *args: Any, **kwargs: Any) -> Any:
        rec = recorder.current
        statement = None
        if rec is not None and not rec.silent:
            statement = _begin(rec, self, f"CALL {procname}", args[0] if args else kwargs.get("params"), False)
        if rec is None or statement is None:
            return original(self, procname, *args, **kwargs)
        try:
            result = original(self, procname, *args, **kwargs)
        except BaseException as error:
            _end(rec, self, statement, error)
            raise
        _end(rec, self, statement, None)
        return result

    return callproc


# -------------------------------------------------------------------------------------------------------- transactions


def _begin_word(rec: Recorder, db: Any, word: str) -> Statement | None:
    try:
        # Without a transaction the driver sends nothing.
        if db.connection is None or in_transaction(db.connection) is False:
            return None
        return _database(rec, db).begin(rec, word)
    except Exception as error:
        if foreign(error):
            raise
        return None


def _transaction_end(original: Callable[..., Any], word: str) -> Callable[..., Any]:
    @functools.wraps(original)
    def end(self: Any) -> Any:
        rec = recorder.current
        statement = _begin_word(rec, self, word) if rec is not None and not rec.silent else None
        if rec is None or statement is None:
            return original(self)
        try:
            result = original(self)
        except BaseException as error:
            statement.fail(error)
            raise
        statement.finish()
        if self.connection is not None:
            track(rec, self.connection, False)
        return result

    return end


def _block(original: Callable[..., Any]) -> Callable[..., Any]:
    """``Atomic.__enter__`` and ``__exit__``: what is open afterwards."""

    @functools.wraps(original)
    def step(self: Any, *args: Any) -> Any:
        try:
            return original(self, *args)
        finally:
            rec = recorder.current
            if rec is not None and not rec.silent:
                _stepped(rec, self)

    return step


def _stepped(rec: Recorder, block: Any) -> None:
    try:
        from django.db.transaction import get_connection

        db = get_connection(block.using)
        if db.connection is not None:
            _database(rec, db)
            _track(rec, db)
    except Exception as error:
        if foreign(error):
            raise


# -------------------------------------------------------------------------------------------------------- relationships

#: Names by (model of the instance, identity of the field that points at it, model of the rows), with the field to keep
#: its identity.
_names: dict[tuple[type, int, type], tuple[str, Any]] = {}


def _labelled(original: Callable[..., Any], name_of: Callable[..., str]) -> Callable[..., Any]:
    """A method during which statements belong to the relationship that ``name_of`` its arguments says; "" keeps the
    one there is."""

    @functools.wraps(original)
    def load(*args: Any, **kwargs: Any) -> Any:
        rec = recorder.current
        name = _named(name_of, args) if rec is not None and not rec.silent else ""
        if not name:
            return original(*args, **kwargs)
        token = relationship.set(name)
        try:
            return original(*args, **kwargs)
        finally:
            relationship.reset(token)

    return load


def _named(name_of: Callable[..., str], args: tuple[Any, ...]) -> str:
    try:
        return name_of(*args)
    except Exception as error:
        if foreign(error):
            raise
        return ""


def _without_label(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def prefetch(*args: Any, **kwargs: Any) -> Any:
        if not relationship.get():
            return original(*args, **kwargs)
        token = relationship.set("")
        try:
            return original(*args, **kwargs)
        finally:
            relationship.reset(token)

    return prefetch


def _of_foreign_key(descriptor: Any, *_: Any) -> str:
    field = descriptor.field
    return lazily(f"{field.model.__name__}.{field.name}", "select")


def _of_deferred_field(attribute: Any, instance: Any = None, *_: Any) -> str:
    field = attribute.field
    if instance is None or field.attname in instance.__dict__:
        return ""
    return lazily(f"{type(instance).__name__}.{field.name}", "deferred")


def _of_related_rows(queryset: Any) -> str:
    """ "Order.items" when the rows are those that point at one instance: a related manager's, or the other side of a
    one-to-one field. A prefetch asks for those of many instances."""
    if queryset._result_cache is not None or not queryset._hints or relationship.get():
        return ""
    instance = queryset._hints.get("instance")
    if instance is None:
        return ""
    for condition in queryset.query.where.children[:8]:
        if getattr(condition, "lookup_name", "") == "exact":
            target = getattr(condition.lhs, "target", None)
            name = _accessor(type(instance), target, queryset.model) if target is not None else ""
            if name:
                return name
    return ""


def _accessor(model: type, target: Any, rows: type) -> str:
    key = (model, id(target), rows)
    known = _names.get(key)
    if known is None:
        if len(_names) >= 4096:
            _names.clear()
        known = _names[key] = (_find_accessor(model, target, rows), target)
    return known[0]


def _find_accessor(model: Any, target: Any, rows: type) -> str:
    remote = getattr(target, "remote_field", None)
    if remote is None or not issubclass(model, remote.model) or (target.primary_key and issubclass(model, rows)):
        return ""
    if target.model is rows or issubclass(rows, target.model):
        name = remote.get_accessor_name()
        strategy = "select" if target.one_to_one else "dynamic"
        return lazily(f"{remote.model.__name__}.{name}", strategy) if name else ""
    for field in (*model._meta.many_to_many, *model._meta.related_objects):  # through a table in between
        if field.many_to_many:
            through = field.through if field.auto_created else field.remote_field.through
            if through is target.model and field.related_model is rows:
                name = field.get_accessor_name() if field.auto_created else field.name
                return lazily(f"{model.__name__}.{name}", "dynamic")
    return ""


class DjangoProbe(Probe):
    """Statements, commits and rollbacks through Django, with the relationship or deferred field that was touched."""

    channel: ClassVar[str] = "sql"
    library: ClassVar[str] = LIBRARY
    modules: ClassVar[tuple[str, ...]] = (
        "django.db.backends.utils",
        "django.db.backends.base.base",
        "django.db.transaction",
        "django.db.models.query",
        "django.db.models.query_utils",
        "django.db.models.fields.related_descriptors",
    )

    def patch(self, module: ModuleType) -> None:
        """Replace the cursor's and the connection's methods, and what loads a relationship when it is touched."""
        m: Any = module
        match module.__name__:
            case "django.db.backends.utils":
                self.replace(m.CursorWrapper, "execute", lambda original: _execute(original, False))
                self.replace(m.CursorWrapper, "executemany", lambda original: _execute(original, True))
                self.replace(m.CursorWrapper, "callproc", _callproc)
            case "django.db.backends.base.base":
                wrapper = m.BaseDatabaseWrapper
                self.replace(wrapper, "_commit", lambda original: _transaction_end(original, "COMMIT"))
                self.replace(wrapper, "_rollback", lambda original: _transaction_end(original, "ROLLBACK"))
            case "django.db.transaction":
                self.replace(m.Atomic, "__enter__", _block)
                self.replace(m.Atomic, "__exit__", _block)
            case "django.db.models.query":
                self.replace(m.QuerySet, "_fetch_all", lambda original: _labelled(original, _of_related_rows))
                self.replace(m.QuerySet, "_prefetch_related_objects", _without_label)
            case "django.db.models.query_utils":
                self.replace(m.DeferredAttribute, "__get__", lambda original: _labelled(original, _of_deferred_field))
            case _:
                for kind in (m.ForwardManyToOneDescriptor, m.ForwardOneToOneDescriptor):
                    self.replace(kind, "get_object", lambda original: _labelled(original, _of_foreign_key))
