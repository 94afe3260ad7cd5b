"""Which errors go away by themselves and which do not, from their type and status alone."""

from __future__ import annotations

from typing import Literal

Lasting = Literal["permanent", "transient", "unknown"]

#: Statuses of the 4xx class that say "later", not "no": RFC 9110 (408), RFC 8470 (425), RFC 6585 (429).
_LATER = frozenset({408, 425, 429})

#: Bugs and bad data: the same arguments meet the same error again. Names of the standard library, of database drivers
#: (PEP 249 and SQLSTATE classes 22, 23 and 42) and of validation libraries.
_PERMANENT = frozenset({
    "TypeError", "ValueError", "KeyError", "IndexError", "LookupError", "AttributeError", "NameError",
    "UnboundLocalError", "ZeroDivisionError", "OverflowError", "AssertionError", "NotImplementedError",
    "ImportError", "ModuleNotFoundError", "SyntaxError", "UnicodeDecodeError", "UnicodeEncodeError", "InvalidOperation",
    "ValidationError", "SchemaError",
    "IntegrityError", "DataError", "ProgrammingError", "NoResultFound", "MultipleResultsFound", "DoesNotExist",
    "UniqueViolation", "NotNullViolation", "ForeignKeyViolation", "CheckViolation", "UndefinedTable",
    "UndefinedColumn", "InvalidTextRepresentation", "NumericValueOutOfRange", "StringDataRightTruncation",
})  # fmt: skip

_TRANSIENT = frozenset({
    "ConnectionError", "ConnectionRefusedError", "ConnectionResetError", "ConnectionAbortedError", "BrokenPipeError",
    "TimeoutError", "Timeout", "ConnectTimeout", "ReadTimeout", "WriteTimeout", "PoolTimeout", "ConnectError",
    "ReadError", "RemoteProtocolError", "RemoteDisconnected", "ProtocolError", "ChunkedEncodingError", "URLError",
    "OperationalError", "InterfaceError", "DeadlockDetected", "SerializationFailure", "LockNotAvailable",
    "QueryCanceled", "LockError", "BusyLoadingError", "gaierror", "IncompleteRead", "JobTimeoutException",
    "BlockingIOError", "MemoryError", "SSLError", "MaxRetryError",
})  # fmt: skip


def lasting(type_name: str, status: int | None = None) -> Lasting:
    """Whether trying again with the same arguments can help.

    A status decides over the type. ``JSONDecodeError`` is a ValueError by descent but often a gateway's error page,
    so it is unknown, as is every type that is not listed.
    """
    if status is not None and 400 <= status < 600:
        if status >= 500 or status in _LATER:
            return "transient"
        return "permanent"
    name = type_name.rpartition(".")[2]
    if name in _PERMANENT:
        return "permanent"
    if name in _TRANSIENT:
        return "transient"
    return "unknown"
