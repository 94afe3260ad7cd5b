"""Mail by smtplib: connections and messages. Addresses and contents are never looked at."""

from __future__ import annotations

import socket
from types import ModuleType
from typing import Any, ClassVar

from jobdoctor.capture.probes.base import Probe, recorded
from jobdoctor.capture.recorder import BATCHED, NEW_CONNECTION, NO_TIMEOUT, Call, Recorder


def _target(client: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> str:
    given = kwargs or {}
    host = (args[1] if len(args) > 1 else given.get("host")) or getattr(client, "_host", "") or "localhost"
    port = (args[2] if len(args) > 2 else given.get("port")) or ""
    return f"smtp://{host}:{port}" if port and ":" not in str(host) else f"smtp://{host}"


def _no_timeout(client: Any) -> int:
    timeout = client.timeout
    if timeout is socket._GLOBAL_DEFAULT_TIMEOUT:  # type: ignore[attr-defined]
        timeout = socket.getdefaulttimeout()
    return NO_TIMEOUT if timeout is None else 0


def _begin_connect(rec: Recorder, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
    client = args[0]
    shape = rec.shape(
        "mail", "CONNECT", "CONNECT", target=_target(client, args, kwargs), library="smtplib", effect="none"
    )
    return rec.begin(shape, flags=NEW_CONNECTION | _no_timeout(client))


def _begin_send(rec: Recorder, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
    client = args[0]
    recipients = args[2] if len(args) > 2 else kwargs.get("to_addrs", ())
    message = args[3] if len(args) > 3 else kwargs.get("msg", "")
    count = 1 if isinstance(recipients, str) else len(recipients)
    shape = rec.shape("mail", "SEND", "SEND", target=_target(client), library="smtplib", effect="write")
    call = rec.begin(shape, flags=_no_timeout(client) | (BATCHED if count > 1 else 0))
    if call is not None:
        call.cell.add(sent=len(message), items=count if count > 1 else 0)
    return call


class MailProbe(Probe):
    """Messages sent; ``send_message`` comes through ``sendmail``."""

    channel: ClassVar[str] = "mail"
    library: ClassVar[str] = "smtplib"
    modules: ClassVar[tuple[str, ...]] = ("smtplib",)

    def patch(self, module: ModuleType) -> None:
        """Replace the two methods."""
        m: Any = module
        self.replace(m.SMTP, "connect", lambda original: recorded(original, _begin_connect))
        self.replace(m.SMTP, "sendmail", lambda original: recorded(original, _begin_send))
