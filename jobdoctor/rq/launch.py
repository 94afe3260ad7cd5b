"""Starting workers: what ``jobdoctor run`` needs to know of RQ, as plain data and callables.

The options of ``rq worker`` are taken from the RQ that is installed, so that they are right for each of its versions.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import redis
import rq.cli
from rq.cli.helpers import CliConfig, read_config_file
from rq.serializers import resolve_serializer

from jobdoctor.errors import ConfigError, StreamError
from jobdoctor.rq import slo_listen
from jobdoctor.rq.mixed import recording_class_path

#: A worker that a signal killed is started again after this long, so that one that dies at once does not spin.
RESTART_S = 1.0
#: How long a collector may take for its last batch.
COLLECTOR_PATIENCE_S = 60.0
_ENTRY = "import sys; from jobdoctor.cli import main; sys.exit(main())"
_PR_SET_PDEATHSIG = 1
#: Set for the workers of one `jobdoctor run --workers N`, which has said already what each listens to.
_SUPERVISED = "JOBDOCTOR_SUPERVISED"


def worker_command() -> Any:
    """The click command ``rq worker`` of the installed RQ."""
    commands: Any = getattr(rq.cli, "main")  # noqa: B009 -- not re-exported by name
    return commands.commands["worker"]


def recording_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of ``rq worker``, with its worker class recording. ConfigError when there is no such class."""
    for path in parameters.get("path") or ():
        if path not in sys.path:
            sys.path.append(path)
    asked = parameters["worker_class"]
    try:
        recording = recording_class_path(asked)
    except (ImportError, AttributeError, TypeError) as error:
        raise ConfigError(f"--worker-class {asked}: {error}", "give the dotted path of a worker class") from None
    return {**parameters, "worker_class": recording}


def check_server(parameters: Mapping[str, Any]) -> str:
    """The URL of the server that the worker will use; StreamError when none answers there."""
    connection = _connection(parameters)
    url = connection_url(connection)
    try:
        connection.ping()
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError):
        raise StreamError(
            f"no Redis or Valkey server answers at {_printable(url)}", "start one or pass --url"
        ) from None
    except redis.exceptions.RedisError as error:
        raise StreamError(f"the server at {_printable(url)} refuses: {error}", "correct --url") from None
    finally:
        connection.close()
    return url


def check_settings(parameters: Mapping[str, Any]) -> None:
    """ConfigError for a --config or a --serializer that RQ could not import, before a worker or a collector starts."""
    for option, check in (("config", read_config_file), ("serializer", resolve_serializer)):
        asked = parameters.get(option)
        if asked:
            try:
                check(asked)
            except Exception as error:  # whatever the module itself raises while it is imported
                what = f"--{option} {asked}: {type(error).__name__}: {error}"
                raise ConfigError(what, "give what Python can import from here") from None


def promise_queues(
    parameters: Mapping[str, Any], within: str | None, workers: int
) -> tuple[tuple[str, ...], list[str]]:
    """The queues that this process's worker listens to with `--slo`, and what to say of it: a line for each worker.
    From now on this process minds promises. ConfigError when no queue promises so little."""
    connection = _connection(parameters)
    try:
        queues = slo_listen.names(connection, within, parameters.get("queues") or ())
        first = slo_listen.names(connection, slo_listen.RESERVED_WITHIN)
    finally:
        connection.close()
    told = os.environ.get(_SUPERVISED) == "1"
    os.environ[_SUPERVISED] = "1"
    slo_listen.announce(within)
    few = 0 if within is not None else slo_listen.reserved(workers)
    lines = [
        f"worker {number} listens to {', '.join(first if number <= few else queues)}"
        f"{' only' if number <= few or within is not None else ''}"
        for number in range(1, workers + 1)
    ]
    return tuple(queues), [] if told else lines


def reserved_options(workers: int, within: str | None) -> list[list[str]]:
    """Options of the workers that take fast jobs only."""
    return [] if within is not None else [["--within", slo_listen.RESERVED_WITHIN]] * slo_listen.reserved(workers)


def _connection(parameters: Mapping[str, Any]) -> Any:
    settings = {name: parameters[name] for name in ("url", "config", "connection_class", "path") if name in parameters}
    try:
        connection = CliConfig(**settings).connection
    except ImportError as error:
        raise ConfigError(f"--config {parameters.get('config')}: {error}", "give an importable module") from None
    except ValueError as error:
        raise ConfigError(f"the Redis URL means nothing: {error}", "give one like redis://host:6379/0") from None
    # One try: who waits for a server to come up wants to know that it has not.
    options = {
        **connection.connection_pool.connection_kwargs,
        "retry": None,
        "retry_on_error": [],
        "socket_connect_timeout": 5,
    }
    if connection.connection_pool.__class__ is redis.ConnectionPool:
        pool = redis.ConnectionPool(connection_class=connection.connection_pool.connection_class, **options)
        return redis.Redis(connection_pool=pool)
    return connection


def connection_url(connection: Any) -> str:
    """A URL for the same server and database, for the collector."""
    kwargs = connection.connection_pool.connection_kwargs
    secret = ""
    if kwargs.get("password") or kwargs.get("username"):
        secret = f"{quote(kwargs.get('username') or '', safe='')}:{quote(str(kwargs.get('password') or ''), safe='')}@"
    database = kwargs.get("db") or 0
    if kwargs.get("path"):
        return f"unix://{secret}{kwargs['path']}?db={database}"
    scheme = "rediss" if "SSL" in connection.connection_pool.connection_class.__name__ else "redis"
    return f"{scheme}://{secret}{kwargs.get('host', 'localhost')}:{kwargs.get('port', 6379)}/{database}"


def _printable(url: str) -> str:
    parts = urlsplit(url)
    if parts.password or parts.username:
        parts = parts._replace(netloc="***@" + parts.netloc.rpartition("@")[2])
    return urlunsplit(parts)


# ---------------------------------------------------------------------------------------------------------- processes


def _die_with_parent() -> None:
    """In a child: ask to finish when the parent is gone, however it went. Linux only; elsewhere nothing happens."""
    try:
        ctypes = importlib.import_module("ctypes")
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    except (ImportError, OSError, AttributeError):
        pass


def _start(arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    # A session of its own: Ctrl-C reaches the terminal's foreground group, and we pass on what is meant for children.
    return subprocess.Popen(  # noqa: S603 -- our own command
        [sys.executable, "-c", _ENTRY, *arguments],
        env={**os.environ, **environment},
        start_new_session=True,
        preexec_fn=_die_with_parent,
    )


class CollectorProcess:
    """A ``jobdoctor collect`` beside the workers. URLs go by the environment: arguments can be read by anybody."""

    def __init__(self, redis_url: str, store: str | None) -> None:
        self._environment = {"RQ_REDIS_URL": redis_url}
        if store is not None:
            self._environment["JOBDOCTOR_STORE"] = store
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> int:
        """Collects what is there already, which proves that store and stream can be used, and then goes on beside us.

        The exit code: not 0 when it cannot; it has said why itself.
        """
        first = _start(["collect", "--once", "--quiet"], self._environment)
        code = first.wait()
        if code == 0:
            self._process = _start(["collect", "--quiet"], self._environment)
        return code

    def stop(self) -> str:
        """Ends it after a last drain; what went wrong, in words."""
        process = self._process
        if process is None:
            return ""
        process.terminate()
        try:
            code = process.wait(COLLECTOR_PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        if code:  # it was ill, or so young that it did not know the signal yet
            code = _start(["collect", "--once", "--quiet"], self._environment).wait()
        if code:
            return f"the collector ended with status {code}; run `jobdoctor collect --once` for what is left"
        return ""


class Supervisor:
    """N worker processes: started, signalled and waited for together."""

    def __init__(self, commands: Sequence[Sequence[str]], say: Callable[[str], None]) -> None:
        self._commands = commands
        self._say = say
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._stopping = False
        self._codes: list[int] = []

    def run(self) -> int:
        """Until every worker has ended; the highest exit code. A worker that a signal killed is replaced."""
        previous = {number: signal.signal(number, self._forward) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            for index in range(len(self._commands)):
                self._running[index] = _start(self._commands[index], {})
            while self._running:
                for index, process in list(self._running.items()):
                    self._look(index, process)
                time.sleep(0.05)
        finally:
            for process in self._running.values():
                process.terminate()
            for number, handler in previous.items():
                signal.signal(number, handler)
        return max(self._codes, default=0)

    def _look(self, index: int, process: subprocess.Popen[bytes]) -> None:
        code = process.poll()
        if code is None:
            return
        del self._running[index]
        if code < 0 and not self._stopping:
            self._say(f"worker {index + 1} was killed by signal {-code}; starting another one")
            time.sleep(RESTART_S)
            if not self._stopping:
                self._running[index] = _start(self._commands[index], {})
                return
        self._codes.append(code if code >= 0 else 128 - code)

    def _forward(self, number: int, _frame: FrameType | None) -> None:
        self._stopping = True
        for process in self._running.values():
            if process.poll() is None:
                process.send_signal(number)


def worker_commands(
    arguments: Sequence[str], workers: int, name: str | None, pid: str | None, more: Sequence[Sequence[str]] = ()
) -> list[list[str]]:
    """The command lines of N single workers, from the arguments of one ``run``: later options win. ``more`` are further
    options of the first ones."""
    given, rest = list(arguments), []
    if "--" in given:
        position = given.index("--")
        given, rest = given[:position], given[position:]
    commands = []
    for number in range(1, workers + 1):
        own = ["--workers", "1", "--no-collect", *(more[number - 1] if number <= len(more) else ())]
        if name:
            own += ["--name", f"{name}-{number}"]
        if pid:
            own += ["--pid", f"{pid}.{number}"]
        commands.append(["run", *given, *own, *rest])
    return commands
