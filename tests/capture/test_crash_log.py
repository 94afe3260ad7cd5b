"""The stack of a fault, written as the process dies, which dies as it would without."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from jobdoctor.capture import crash_log
from jobdoctor.capture.crash_log import CrashLog
from jobdoctor.capture.outside_stack import RawFrame

FAULT = {
    "SIGSEGV": "import ctypes; ctypes.string_at(0)",
    "SIGABRT": "import os; os.abort()",
    "SIGBUS": "import signal; signal.raise_signal(signal.SIGBUS)",
    "SIGILL": "import signal; signal.raise_signal(signal.SIGILL)",
    "SIGFPE": "import signal; signal.raise_signal(signal.SIGFPE)",
}


def die(log: CrashLog | None, code: str, before: str = "") -> subprocess.CompletedProcess[bytes]:
    armed = f"from jobdoctor.capture import crash_log\ncrash_log.arm({log.descriptor})\n" if log is not None else ""
    source = f"{before}\n{armed}def décode():\n    {code}\ndécode()\n"
    passed = (log.descriptor,) if log is not None else ()
    return subprocess.run([sys.executable, "-c", source], pass_fds=passed, capture_output=True, check=False)


@pytest.mark.parametrize("name", FAULT)
def test_dies_as_without_and_leaves_its_stack(name: str) -> None:
    plain = die(None, FAULT[name])
    log = CrashLog()
    ours = die(log, FAULT[name])
    assert (ours.returncode, ours.stdout, ours.stderr) == (plain.returncode, plain.stdout, plain.stderr)
    assert plain.returncode < 0
    frames = crash_log.parse(log.text())
    assert RawFrame("<string>", 5, "décode") in frames
    assert frames[-1].function == "<module>"
    log.clear()
    assert log.text() == ""
    os.lseek(log.descriptor, 77, os.SEEK_SET)
    die(log, FAULT[name])
    assert crash_log.parse(log.text()) == frames
    log.close()


@pytest.mark.parametrize("before", ["import faulthandler; faulthandler.enable()", ""])
def test_the_applications_own_way_stays(before: str) -> None:
    log = CrashLog()
    code = FAULT["SIGSEGV"] if before else "import faulthandler; faulthandler.enable(); " + FAULT["SIGSEGV"]
    ours = die(log, code, before)
    assert b"Segmentation fault" in ours.stderr
    assert b"string_at" in ours.stderr
    assert log.text() == ""
    log.close()


def test_a_fork_writes_where_it_is_directed() -> None:
    log, other = CrashLog(), CrashLog()
    source = f"""
import ctypes, os
from jobdoctor.capture import crash_log
assert crash_log.prepare()
assert crash_log.prepare()
for descriptor in ({log.descriptor}, {other.descriptor}, {log.descriptor}):
    if not os.fork():
        assert crash_log.direct(descriptor)
        ctypes.string_at(0)
    os.wait()
"""
    subprocess.run([sys.executable, "-c", source], pass_fds=(log.descriptor, other.descriptor), check=True)
    for each in (log, other):
        assert [frame.function for frame in crash_log.parse(each.text())] == ["string_at", "<module>"]
        assert each.text().count("Fatal") == 1
        each.close()


def test_a_descriptor_that_means_something_else_now_is_left_alone(tmp_path: pathlib.Path) -> None:
    log = CrashLog()
    source = f"""
import os
from jobdoctor.capture import crash_log
crash_log.prepare()
number = crash_log._armed[0]
os.dup2(os.open({str(tmp_path / "socket")!r}, os.O_RDWR | os.O_CREAT), number)
inode = os.fstat(number).st_ino
assert not crash_log.direct({log.descriptor})
assert os.fstat(number).st_ino == inode
"""
    subprocess.run([sys.executable, "-c", source], pass_fds=(log.descriptor,), check=True)
    log.close()


def test_a_file_that_a_spawned_process_finds(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "crash"
    log = CrashLog(str(path))
    assert path.stat().st_mode & 0o777 == 0o600
    source = f"from jobdoctor.capture import crash_log\ncrash_log.arm_path({str(path)!r})\n{FAULT['SIGSEGV']}\n"
    subprocess.run([sys.executable, "-c", source], capture_output=True, check=False)
    assert [frame.function for frame in crash_log.parse(log.text())] == ["string_at", "<module>"]
    with pytest.raises(FileExistsError):
        CrashLog(str(path))
    log.close()
    assert not path.exists()


DUMP = """Fatal Python error: Segmentation fault

Thread 0x00007f0001 (most recent call first):
  File "/app/other.py", line 3 in wait

Current thread 0x00007f0002 (most recent call first):
  File "/app/caf\\xe9/\\u65e5\\u672c.py", line 40 in d\\xe9code
  File "/app/a "quoted", line 1 in it.py", line 12 in job
  File "<unknown>", line ??? in load
  ...

Extension modules: numpy.core._multiarray_umath (total: 1)
"""


def test_the_thread_that_faulted_is_read() -> None:
    assert crash_log.parse(DUMP) == [
        RawFrame("/app/café/日本.py", 40, "décode"),
        RawFrame('/app/a "quoted", line 1 in it.py', 12, "job"),
        RawFrame("<unknown>", 0, "load"),
    ]
    assert crash_log.parse(DUMP.replace("line 40", "line 1") + "\n" + DUMP) == crash_log.parse(DUMP)


def test_without_other_threads_there_is_one_stack() -> None:
    dump = 'Fatal Python error: Aborted\n\nStack (most recent call first):\n  File "x.py", line 4 in f\n\nExtension'
    assert crash_log.parse(dump) == [RawFrame("x.py", 4, "f")]


@pytest.mark.parametrize("text", ["", "Timeout (0:00:01)!\n", "Fatal Python error: Aborted\n\nCurrent thr", "x\x00y"])
def test_what_is_no_stack_is_none(text: str) -> None:
    assert crash_log.parse(text) == []
