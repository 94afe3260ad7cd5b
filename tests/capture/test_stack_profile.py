"""pyinstrument on chosen executions: the policy, the tree, the way through the side file."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from jobdoctor.capture import stack_profile
from jobdoctor.capture.stack_profile import StackProfile, dump, load, profile_path
from jobdoctor.model import Profile, ProfileFrame

MS = 1_000_000
HERE = "tests/capture/test_stack_profile.py"


def spin(seconds: float) -> int:
    until = time.process_time() + seconds
    number = 0
    while time.process_time() < until:
        number = step(number)
    return number


def step(number: int) -> int:
    return number + 1


def profile_of(work: Any) -> Profile:
    profiler = StackProfile()
    assert profiler.start(), profiler.missing
    try:
        work()
    finally:
        found = profiler.stop()
    assert found is not None
    return found


class TestProfile:
    def test_the_hot_path_is_named(self) -> None:
        slept_ns = 0

        def job() -> None:
            nonlocal slept_ns
            spin(0.15)
            began = time.perf_counter_ns()
            time.sleep(0.05)
            slept_ns = time.perf_counter_ns() - began

        profile = profile_of(job)
        assert profile.interval_ms == 1.0
        assert profile.duration_ns >= 195 * MS
        assert profile.samples > 50
        named = {frame.function: frame for frame in profile.frames}
        assert named["spin"].ns >= 140 * MS
        assert named["spin"].application
        assert named["spin"].callsite.startswith(f"{HERE}:")
        lines = Path(__file__).read_text().splitlines()
        # The line where the time is, not the line of the def.
        assert "def spin" not in lines[int(named["spin"].callsite.rpartition(":")[2]) - 1]
        assert not named["sleep"].application
        # Its first sample may belong to what ran before it, and the one after it to it: an interval each.
        assert 40 * MS < named["sleep"].ns < slept_ns + 5 * MS

    def test_parents_stand_before_their_children_and_hold_their_time(self) -> None:
        profile = profile_of(lambda: [spin(0.02) for _ in range(3)])
        for index, frame in enumerate(profile.frames):
            assert frame.parent < index
            children = sum(other.ns for other in profile.frames if other.parent == index)
            assert children <= frame.ns * 1.001
        assert [frame.parent for frame in profile.frames].count(-1) == 1
        # Several calls of one function in one place are one frame.
        assert sum(frame.function == "spin" for frame in profile.frames) == 1

    def test_asyncio(self) -> None:
        async def worker() -> None:
            for _ in range(3):
                spin(0.02)
                await asyncio.sleep(0.01)

        async def main() -> None:
            await asyncio.gather(worker(), worker())

        profile = profile_of(lambda: asyncio.run(main()))
        named = {frame.function: frame for frame in profile.frames}
        assert named["worker"].application
        assert named["spin"].ns >= 100 * MS

    def test_many_frames_are_pruned_and_capped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        records = [([f"root\0{__file__}\x001", f"f{number}\0{__file__}\x00{number}"], 0.01) for number in range(600)]
        root = stack_profile._tree(records)
        frames = stack_profile._frames(root, int(6e9))
        assert len(frames) == 2  # 600 functions of 0.17% each are below the limit
        monkeypatch.setattr(stack_profile, "SMALLEST_SHARE", 0.0)
        frames = stack_profile._frames(root, int(6e9))
        assert len(frames) == stack_profile.FRAMES

    def test_another_profiler_is_left_alone(self) -> None:
        first = StackProfile()
        assert first.start()
        second = StackProfile()
        started = second.start()
        assert started or second.missing
        second.stop()
        spin(0.02)
        assert first.stop() is not None

    def test_stop_without_start(self) -> None:
        assert StackProfile().stop() is None

    def test_without_pyinstrument(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pyinstrument", None)
        profiler = StackProfile()
        assert not profiler.start()
        assert "pyinstrument" in profiler.missing
        assert profiler.stop() is None

    def test_importing_the_module_does_not_import_pyinstrument(self) -> None:
        code = "import sys, jobdoctor.capture.stack_profile; print('pyinstrument' in sys.modules)"
        shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert shown.stdout.strip() == "False"


class TestSideFile:
    PROFILE = Profile(1.0, 3, 5, [ProfileFrame(-1, "job", "app/tasks.py:41", 5, True)])

    def test_there_and_back(self) -> None:
        path = profile_path()
        assert not os.path.exists(path)
        assert dump(self.PROFILE, path)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        assert load(path) == self.PROFILE
        assert not os.path.exists(path)

    def test_a_horse_that_was_killed_leaves_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "profile"
        assert load(str(path)) is None
        (tmp_path / "profile.part").write_bytes(b"\x81")
        assert load(str(path)) is None
        assert list(tmp_path.iterdir()) == []

    def test_a_damaged_file_is_no_profile(self, tmp_path: Path) -> None:
        path = tmp_path / "profile"
        path.write_bytes(b"nonsense")
        assert load(str(path)) is None

    def test_a_file_that_cannot_be_written(self, tmp_path: Path) -> None:
        assert not dump(self.PROFILE, str(tmp_path / "nowhere" / "profile"))


def test_a_sample_of_what_still_starts_does_not_hide_the_job() -> None:
    worker, enter, job = "work\0/usr/lib/worker.py\0001", "enter\0/usr/lib/record.py\0001", "job\0app.py\0001"
    root = stack_profile._tree([([worker, enter], 0.002), ([worker, job], 0.2)])
    assert stack_profile._begin(root, [worker, enter]).seconds > 0.2
