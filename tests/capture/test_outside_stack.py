"""The stack of another process, read from outside while it does what it does."""

from __future__ import annotations

import asyncio.base_events
import inspect
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType
from typing import Any

import pytest
from msgspec.structs import replace

from jobdoctor.capture import outside_stack
from jobdoctor.capture.outside_stack import RawFrame, StackReader, UnreadableError

HERE = __file__


@contextmanager
def forked(body: Callable[[int], object]) -> Iterator[int]:
    """A child that runs ``body(ready)``, where a byte written to ``ready`` lets the parent go on."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            body(write)
        finally:
            os._exit(0)
    try:
        os.read(read, 1)
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(read)
        os.close(write)


class Order:
    def load(self, depth: int, ready: int) -> bool:
        if depth:
            return self.load(depth - 1, ready)
        os.write(ready, b"x")
        select.select(
            [],
            [],
            [],
            60,
        )
        return True


def job(ready: int) -> list[bool]:
    return [Order().load(3, ready) for _ in range(1)]


def stack_once(reader: StackReader, asleep: RawFrame) -> list[RawFrame]:
    """The stack as soon as its innermost frame is that one: a process that says it is ready is only on its way."""
    deadline = time.monotonic() + 20
    while (stack := reader.stack())[:1] != [asleep] and time.monotonic() < deadline:
        time.sleep(0.005)
    return stack


def line_of(function: Callable[..., object], text: str) -> int:
    lines, first = inspect.getsourcelines(function)
    return first + next(number for number, line in enumerate(lines) if text in line)


def test_names_files_functions_and_lines_of_a_fork() -> None:
    outermost = sys._getframe()
    while outermost.f_back is not None:
        outermost = outermost.f_back
    with forked(job) as pid:
        reader = StackReader(pid)
        asleep = RawFrame(HERE, line_of(Order.load, "select.select"), "Order.load")
        stack = stack_once(reader, asleep)
        reader.close()
    again = RawFrame(HERE, line_of(Order.load, "return self.load"), "Order.load")
    assert stack[:4] == [asleep, again, again, again]
    assert stack[-1].function == outermost.f_code.co_qualname  # whatever started the tests
    outer = [frame for frame in stack if frame.function == "job"]
    assert outer == [RawFrame(HERE, line_of(job, "return ["), "job")]


def test_a_stack_ends_before_a_file() -> None:
    names: dict[str, Callable[[int], object]] = {"job": job}
    exec(compile("def through(ready):\n    job(ready)", "/worker/horse.py", "exec"), names)
    with forked(names["through"]) as pid:
        reader = StackReader(pid)
        whole = stack_once(reader, RawFrame(HERE, line_of(Order.load, "select.select"), "Order.load"))
        assert [frame.function for frame in whole].count("through") == 1
        ended = reader.stack("/worker/")
        reader.close()
    assert ended == whole[: [frame.function for frame in whole].index("through")]


def test_where_a_fork_has_the_interpreter_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    base = outside_stack._base

    def counted(process: str, *more: Any) -> Any:
        looked.append(process)
        return base(process, *more)

    monkeypatch.setattr(outside_stack, "_base", counted)
    monkeypatch.setattr(outside_stack, "_shifts", {})
    with forked(job) as pid:
        shifts = []
        for parent in (7, 7, 8, 0):
            reader = StackReader(pid, spawned=True, parent=parent)
            shifts.append(reader._shift)
            reader.close()
    assert shifts == [0, 0, 0, 0]
    assert looked == ["self", str(pid)] * 3  # not for the second fork of 7


def test_reads_a_spawned_process_of_the_same_interpreter() -> None:
    source = "import time\ndef wait_äöü():\n    print(flush=True)\n    time.sleep(60)\nwait_äöü()\n"
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        reader = StackReader(process.pid, spawned=True)
        stack = stack_once(reader, RawFrame("<string>", 4, "wait_äöü"))
        reader.close()
        process.kill()
    assert stack == [RawFrame("<string>", 4, "wait_äöü"), RawFrame("<string>", 5, "<module>")]


def test_other_threads_are_read_too() -> None:
    def in_a_thread() -> None:
        time.sleep(60)

    def body(ready: int) -> None:
        threading.Thread(target=in_a_thread, daemon=True).start()
        Order().load(0, ready)

    with forked(body) as pid:
        reader = StackReader(pid)
        asleep = RawFrame(
            HERE, line_of(in_a_thread, "time.sleep"), "test_other_threads_are_read_too.<locals>.in_a_thread"
        )
        until = time.monotonic() + 10
        stacks = reader.other_stacks(3)
        # The thread may be on its way, and time.sleep be wrapped by a probe that another test has installed.
        while not (stacks and asleep in stacks[0]) and time.monotonic() < until:
            stacks = reader.other_stacks(3)
        (stack,) = stacks
        assert reader.other_stacks(0) == []
        reader.close()
    assert stack[stack.index(asleep) + 1].function == "Thread.run"


def test_a_process_in_full_motion_is_read_without_a_wrong_frame() -> None:
    """Frames and code objects that come and go: what is read is a stack that there was, or nothing."""

    def body(ready: int) -> None:
        os.write(ready, b"x")
        number = 0
        while True:
            number += 1
            names: dict[str, Callable[[int], int]] = {}
            text = f"def g{number}(n):\n  return g{number}(n - 1) if n else 0"
            exec(compile(text, "<generated>", "exec"), names)
            names[f"g{number}"](150)

    with forked(body) as pid:
        reader = StackReader(pid)
        stacks = [reader.stack() for _ in range(300)]
        reader.close()
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)  # it lives
    read = [stack for stack in stacks if stack]
    assert len(read) > 20
    for stack in read:
        for frame in stack:
            if frame.filename == "<generated>":
                assert frame.line in (1, 2)
                assert frame.function.startswith("g") or frame.function == "<module>"


def test_nothing_is_read_of_a_process_that_is_gone() -> None:
    with forked(job) as pid:
        reader = StackReader(pid)
        assert stack_once(reader, RawFrame(HERE, line_of(Order.load, "select.select"), "Order.load"))
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert reader.stack() == []
        assert reader.other_stacks(3) == []
        reader.close()
    with pytest.raises(ProcessLookupError):
        StackReader(pid)


def test_another_program_is_refused() -> None:
    with subprocess.Popen(["/bin/sleep", "60"]) as process:
        with pytest.raises(UnreadableError, match="another interpreter"):
            StackReader(process.pid, spawned=True)
        process.kill()


@pytest.mark.parametrize("field", ["code", "previous", "instruction", "text"])
def test_offsets_that_do_not_fit_are_noticed_before_they_are_used(monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    version = sys.version_info[:2]
    right = outside_stack._OFFSETS[version]
    monkeypatch.setitem(outside_stack._OFFSETS, version, replace(right, **{field: getattr(right, field) ^ 8}))
    monkeypatch.setattr(outside_stack, "_known", None)
    with pytest.raises(UnreadableError, match="not where they should be"):
        StackReader(os.getpid())


def test_an_unknown_python_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside_stack, "_OFFSETS", {})
    monkeypatch.setattr(outside_stack, "_known", None)
    with pytest.raises(UnreadableError, match="does not know the frames of cpython"):
        StackReader(os.getpid())


def codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes(constant)


@pytest.mark.parametrize("module", [asyncio.base_events, inspect, json])
def test_lines_are_those_of_python(module: object) -> None:
    path = inspect.getsourcefile(module)  # type: ignore[arg-type]
    assert path is not None
    with open(path, encoding="utf-8") as source:
        whole = compile(source.read(), path, "exec")
    for code in codes(whole):
        lines = [line for line, *_ in code.co_positions()]
        last = code.co_firstlineno
        for unit, line in enumerate(lines):
            last = line or last
            if line in lines[unit - 1 : unit] and line in lines[unit + 1 : unit + 2]:
                continue  # within a line's units: its first and its last say as much
            assert outside_stack._line(code.co_linetable, code.co_firstlineno, unit) in (line, last), (code, unit)
