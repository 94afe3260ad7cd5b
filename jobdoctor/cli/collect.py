"""``jobdoctor collect``: move recordings from the stream to the store."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import click

from jobdoctor.cli.options import quiet_option, store_option, url_option

EPILOG = """\b
Examples:
  jobdoctor collect --url redis://staging:6379
  jobdoctor collect --once --store postgresql://jobdoctor@db/jobdoctor
"""


@click.command("collect", epilog=EPILOG)
@url_option
@store_option
@click.option("--once", is_flag=True, help="Collect what is there now, and end.")
@quiet_option
def command(url: str | None, store: str | None, once: bool, quiet: bool) -> None:
    """Move recordings from the stream to the store.

    Runs until it gets SIGTERM or SIGINT, then finishes its batch and what is left. Any number of collectors may run;
    each recording is stored exactly once. Redis and the database may go away and come back meanwhile.
    """
    from jobdoctor import config
    from jobdoctor.store.collector import Collector
    from jobdoctor.store.store import Store
    from jobdoctor.store.stream import StreamReader

    settings = config.load(store=store, redis_url=url)
    stop = threading.Event()

    def say(line: str) -> None:
        if not quiet:
            click.echo(line, err=True)

    with (
        Store.open(settings.store, settings.retention) as opened,
        StreamReader(opened, settings.redis_url) as reader,
    ):
        collector = Collector(reader, stopped=stop.is_set, say=say, observe=_observer(settings.redis_url))
        collector.check()
        if once:
            collector.drain()
        else:
            _stop_on_signals(stop)
            say(f"collecting from {reader.where} to {opened.where}")
            collector.run()
        say(collector.summary())


def _observer(url: str) -> Callable[[], None]:
    """Takes a sample of the queues where no worker has; what fails is left to the next one."""
    from redis.exceptions import RedisError

    from jobdoctor.rq import live, queue_observation

    connection = live.connect(url)

    def observe() -> None:
        with suppress(RedisError, OSError):
            queue_observation.observe(connection)

    return observe


def _stop_on_signals(stop: threading.Event) -> None:
    """The first signal asks to finish; a second one of the same kind ends at once, as ever."""

    def asked(number: int, _frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, asked)
