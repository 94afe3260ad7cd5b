"""How an execution travels on the Redis stream: one entry, msgpack within zlib, with a version.

Both ends share this file: the worker writes with :func:`encode`, the collector reads with :func:`decode`. It knows the
model and msgspec only, so that a worker may import it without paying for the store.

An entry's fields are ``v`` (version), ``id`` (the execution's id, readable without unpacking), ``e`` (the packed
execution) and, when the worker had to give up on earlier recordings, ``lost`` (how many).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import msgspec

from jobdoctor.model import Execution, QueuesSample

#: The key of the stream. Everything of ours in Redis begins with ``jobdoctor:``.
STREAM_KEY = "jobdoctor:executions"

#: The consumer group that all collectors share.
GROUP = "jobdoctor"

#: Entries the stream holds at most (approximately) while nobody collects. At the 2 to 10 KB of a usual execution that
#: is 20 to 100 MB of the server's memory; collected entries are deleted at once.
DEFAULT_MAXLEN = 10_000

#: Samples of the queues, on a stream of their own: at one in 10 s, the last hours of some hundred KB.
SAMPLES_KEY = "jobdoctor:queues"
SAMPLES_MAXLEN = 1_000

VERSION = 1

#: Unpacked size above which an entry is refused: a recorder's bounded cells and spans stay far below it.
MAX_UNPACKED_BYTES = 64 * 1024 * 1024

#: Instants beyond the year 2200 are garbage, and would not fit the sums made of them.
_MAX_AT_NS = 7_258_118_400 * 1_000_000_000

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Execution)
_samples = msgspec.msgpack.Decoder(QueuesSample)


class UnreadableEntryError(ValueError):
    """An entry that is no execution this version can read. The message says why; collectors count and skip it."""


def pack(execution: Execution) -> bytes:
    """The execution as zlib (level 1: four times smaller at a third of level 6's time) of msgpack."""
    try:
        packed = _encoder.encode(execution)
    except UnicodeEncodeError:  # a file name that is not UTF-8 arrives as lone surrogates
        packed = _encoder.encode(_printable(msgspec.to_builtins(execution)))
    return zlib.compress(packed, 1)


def unpack(packed: bytes) -> Execution:
    """The execution that :func:`pack` made; UnreadableEntryError for anything else."""
    try:
        unzip = zlib.decompressobj()
        raw = unzip.decompress(packed, MAX_UNPACKED_BYTES)
        if unzip.unconsumed_tail:
            raise UnreadableEntryError(f"larger than {MAX_UNPACKED_BYTES} bytes")
        if not unzip.eof:
            raise UnreadableEntryError("cut short")
        execution = _decoder.decode(raw)
    except (zlib.error, msgspec.MsgspecError, ValueError) as error:
        if isinstance(error, UnreadableEntryError):
            raise
        raise UnreadableEntryError(f"not a packed execution: {error}") from None
    for name in ("created_at_ns", "enqueued_at_ns", "dequeued_at_ns", "reaped_at_ns"):
        if not 0 <= getattr(execution, name) <= _MAX_AT_NS:
            raise UnreadableEntryError(f"{name} is not an instant: {getattr(execution, name)}")
    return execution


def encode(execution: Execution, *, lost: int = 0) -> dict[bytes, bytes]:
    """The fields of the stream entry. ``lost``: recordings this worker has dropped since its last entry."""
    fields = {
        b"v": b"%d" % VERSION,
        b"id": execution.id.encode("utf-8", "replace"),
        b"e": pack(execution),
    }
    if lost:
        fields[b"lost"] = b"%d" % lost
    return fields


def decode(fields: Mapping[bytes, bytes]) -> Execution:
    """The execution of an entry; UnreadableEntryError when it is newer than this version, or garbage."""
    version = _number(fields, b"v")
    if version is None:
        raise UnreadableEntryError("not an entry of jobdoctor: no version")
    if version > VERSION:
        raise UnreadableEntryError(
            f"written by a newer jobdoctor (entry version {version}, this one reads {VERSION}); upgrade the collector"
        )
    packed = fields.get(b"e")
    if not packed:
        raise UnreadableEntryError("no execution in the entry")
    return unpack(packed)


def lost(fields: Mapping[bytes, bytes]) -> int:
    """How many earlier recordings the writer of this entry had to drop."""
    return max(0, _number(fields, b"lost") or 0)


def encode_sample(sample: QueuesSample) -> dict[bytes, bytes]:
    """The fields of a sample's entry."""
    return {b"v": b"%d" % VERSION, b"q": _encoder.encode(sample)}


def decode_sample(fields: Mapping[bytes, bytes]) -> QueuesSample:
    """The sample of an entry; UnreadableEntryError when it is newer than this version, or garbage."""
    version = _number(fields, b"v")
    if version is None or version > VERSION:
        raise UnreadableEntryError("not a sample of this version")
    try:
        sample = _samples.decode(fields.get(b"q", b""))
    except (msgspec.MsgspecError, ValueError) as error:
        raise UnreadableEntryError(f"not a sample: {error}") from None
    if not 0 <= sample.at_ns <= _MAX_AT_NS:
        raise UnreadableEntryError(f"at_ns is not an instant: {sample.at_ns}")
    return sample


def _number(fields: Mapping[bytes, bytes], name: bytes) -> int | None:
    try:
        return int(fields[name][:10])
    except (KeyError, ValueError):
        return None


def _printable(value: Any) -> Any:
    """The same tree with every character that UTF-8 cannot hold replaced by a question mark."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_printable(item) for item in value]
    return value
