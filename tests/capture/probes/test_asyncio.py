"""asyncio: locks and semaphores that another task holds, tasks beside one another, threads on the way."""

from __future__ import annotations

import asyncio
import asyncio.locks
import functools
import inspect
import time
from collections.abc import Callable

import pytest

from jobdoctor.capture import probes
from tests.capture.probes.conftest import Record, line

HERE = "tests/capture/probes/test_asyncio.py"
HELD_S = 0.05


async def hold(lock: asyncio.Lock | asyncio.Semaphore, seconds: float = HELD_S) -> None:
    async with lock:
        await asyncio.sleep(seconds)


@pytest.mark.parametrize("kind", [asyncio.Lock, asyncio.Semaphore, asyncio.BoundedSemaphore])
def test_a_lock_that_another_task_holds(record: Record, kind: Callable[[], asyncio.Lock]) -> None:
    made = 0

    async def work() -> None:
        nonlocal made
        lock, made = kind(), line()
        await asyncio.gather(*(hold(lock) for _ in range(3)))
        await hold(lock, 0)  # free again

    with record() as recorded:
        asyncio.run(work())
    wait = recorded.one("lock")
    name = "Lock" if kind is asyncio.Lock else "Semaphore"
    assert (wait.operation, wait.fingerprint) == ("acquire", f"asyncio.{name} of {HERE}:{made}")
    assert (wait.library, wait.count, wait.function) == ("asyncio", 2, "hold")
    assert wait.max_ns >= 1.9 * HELD_S * 1e9
    assert wait.blocked_ns == pytest.approx(wait.total_ns, rel=0.2)
    assert [note["kind"] for note in recorded.facts("lock")] == ["thread", "thread"]


def test_a_semaphore_with_room_for_several_is_a_bound_not_a_lock(record: Record) -> None:
    async def work() -> None:
        bound = asyncio.Semaphore(2)
        await asyncio.gather(*(hold(bound) for _ in range(4)))

    with record() as recorded:
        asyncio.run(work())
    assert (recorded.one("lock").operation, recorded.one("lock").count) == ("wait", 2)
    assert recorded.facts("lock") == []


def test_a_conditions_lock_is_a_lock_and_its_wait_is_not(record: Record) -> None:
    async def work() -> None:
        condition = asyncio.Condition()

        async def wait() -> None:
            async with condition:
                await condition.wait()

        task = asyncio.create_task(wait())
        await asyncio.sleep(0.01)
        async with condition:
            condition.notify()
        await task
        await condition.acquire()
        other = asyncio.create_task(wait())
        await asyncio.sleep(0.01)
        condition.release()
        await asyncio.sleep(0.01)
        other.cancel()

    with record() as recorded:
        asyncio.run(work())
    wait = recorded.one("lock")
    assert wait.fingerprint.startswith(f"asyncio.Lock of {HERE}:")
    assert wait.count >= 1


def test_a_wait_that_is_cancelled_is_an_error_and_stays_cancelled(record: Record) -> None:
    async def work() -> None:
        lock = asyncio.Lock()
        await lock.acquire()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await lock.acquire()
        assert lock.locked()
        lock.release()
        await lock.acquire()

    with record() as recorded:
        asyncio.run(work())
    assert recorded.one("lock").error_types == {"asyncio.exceptions.CancelledError": 1}


def test_locks_of_libraries_are_left_alone(record: Record) -> None:
    # As if a library had made it: compiled under a name in site-packages.
    make = eval(compile("lambda kind: kind()", "/usr/lib/site-packages/library.py", "eval"))

    async def work() -> None:
        lock = make(asyncio.Lock)
        await asyncio.gather(*(hold(lock, 0.01) for _ in range(2)))

    with record() as recorded:
        asyncio.run(work())
    assert recorded.of("lock") == []


def test_acquire_stays_a_coroutine_function(installed: None) -> None:
    assert inspect.iscoroutinefunction(asyncio.Lock.acquire)
    assert type(asyncio.Lock()) is asyncio.Lock


def test_calls_in_threads_and_tasks_are_placed_where_they_are_made(record: Record) -> None:
    places: list[int] = []

    def blocking() -> None:
        time.sleep(HELD_S)
        places.append(line(-1))

    async def beside(seconds: float) -> None:
        await asyncio.sleep(seconds)
        places.append(line(-1))

    async def work() -> None:
        await asyncio.gather(asyncio.to_thread(blocking), beside(HELD_S / 2), beside(HELD_S / 2))

    with record() as recorded:
        asyncio.run(work())
    in_thread = next(group for group in recorded.of("sleep") if group.library == "time")
    tasks = next(group for group in recorded.of("sleep") if group.library == "asyncio")
    assert in_thread.callsite == f"{HERE}:{places[-1]}"
    assert (tasks.callsite, tasks.count) == (f"{HERE}:{places[0]}", 2)
    threads = {span.thread for span in recorded.recording.spans}
    assert len(threads) == 2
    # Beside one another: the wall time is counted once.
    assert recorded.recording.channel_ns["sleep"] < in_thread.total_ns + 0.5 * tasks.total_ns


def test_a_thread_that_runs_a_librarys_function_is_the_jobs_own(record: Record) -> None:
    async def work() -> None:
        await asyncio.to_thread(functools.partial(time.sleep, 0.01))

    with record() as recorded:
        recorded.recorder.home = test_a_thread_that_runs_a_librarys_function_is_the_jobs_own
        asyncio.run(work())
    first = test_a_thread_that_runs_a_librarys_function_is_the_jobs_own.__code__.co_firstlineno
    assert recorded.one("sleep").callsite == f"{HERE}:{first}"


def test_everything_is_put_back() -> None:
    def attributes() -> list[object]:
        return [vars(kind)[name] for kind in (asyncio.Lock, asyncio.Semaphore) for name in ("__init__", "acquire")]

    before = attributes()
    probes.install_all()
    assert all(one is not other for one, other in zip(attributes(), before, strict=True))
    probes.uninstall_all()
    assert attributes() == before
