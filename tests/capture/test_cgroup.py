"""Control groups of both versions, as trees of files."""

from __future__ import annotations

import pathlib

import pytest

from jobdoctor.capture import cgroup
from jobdoctor.capture.cgroup import MemoryWatch, groups_of

MIB = 1 << 20


def write(directory: pathlib.Path, **files: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text + "\n")


def proc(membership: str, mounts: str) -> object:
    def read(path: str) -> str:
        return {"cgroup": membership, "mountinfo": mounts}[path.rpartition("/")[2]]

    return read


def v2(root: pathlib.Path, membership: str = "0::/app/worker", seen_from: str = "/") -> list[cgroup._Group]:
    mounts = f"30 24 0:26 {seen_from} {root} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
    return groups_of("self", proc(membership + "\n", mounts))  # type: ignore[arg-type]


def v1(root: pathlib.Path, membership: str, seen_from: str = "/") -> list[cgroup._Group]:
    mounts = (
        f"31 24 0:27 / {root}/unified rw - cgroup2 cgroup2 rw\n"
        f"32 24 0:28 {seen_from} {root}/memory rw - cgroup cgroup rw,memory\n"
    )
    return groups_of("self", proc(membership, mounts))  # type: ignore[arg-type]


def test_the_way_up_in_version_2(tmp_path: pathlib.Path) -> None:
    paths = [group.path for group in v2(tmp_path)]
    assert paths == [str(tmp_path / "app" / "worker"), str(tmp_path / "app"), str(tmp_path)]


def test_the_smallest_limit_on_the_way_up_counts(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "app" / "worker", memory__max="max", memory__events="oom 0\noom_kill 0")
    write(tmp_path / "app", memory__max=str(512 * MIB), memory__events="oom 0\noom_kill 0")
    watch = MemoryWatch(v2(tmp_path))
    assert watch.facts().limit_bytes == 512 * MIB
    assert (watch.facts().oom_kills, watch.facts().limit_hits, watch.facts().watched) == (0, 0, "cgroup")


def test_counters_are_those_since_the_watch_began(tmp_path: pathlib.Path) -> None:
    worker = tmp_path / "app" / "worker"
    write(worker, memory__max="max", memory__events="low 0\noom 4\noom_kill 3")
    write(tmp_path / "app", memory__max=str(512 * MIB), memory__events="oom 7\noom_kill 3")
    watch = MemoryWatch(v2(tmp_path))
    write(worker, memory__events="low 0\noom 4\noom_kill 4")
    write(tmp_path / "app", memory__events="oom 9\noom_kill 4")
    facts = watch.facts()
    assert (facts.oom_kills, facts.limit_hits, facts.limit_bytes) == (1, 2, 512 * MIB)
    assert facts.machine_bytes > 0


def test_version_1_beside_a_version_2_without_memory(tmp_path: pathlib.Path) -> None:
    group = tmp_path / "memory" / "docker" / "abc"
    write(
        group, memory__limit_in_bytes=str(256 * MIB), memory__oom_control="under_oom 0\noom_kill 1", memory__failcnt="5"
    )
    write(tmp_path / "memory", memory__limit_in_bytes=str((1 << 63) - 4096))
    watch = MemoryWatch(v1(tmp_path, "4:memory:/docker/abc\n1:cpu:/\n0::/docker/abc\n"))
    write(group, memory__oom_control="under_oom 0\noom_kill 2", memory__failcnt="9")
    facts = watch.facts()
    assert (facts.oom_kills, facts.limit_hits, facts.limit_bytes, facts.watched) == (1, 4, 256 * MIB, "cgroup")


def test_a_container_sees_its_own_group_as_the_root(tmp_path: pathlib.Path) -> None:
    root = tmp_path / "memory"
    assert [group.path for group in v1(tmp_path, "4:memory:/docker/abc\n", "/docker/abc")] == [str(root)]
    below = v1(tmp_path, "4:memory:/docker/abc/below\n", "/docker/abc")
    assert [group.path for group in below] == [str(root / "below"), str(root)]
    # The path of another name space, and one that lies above what is mounted.
    assert [group.path for group in v1(tmp_path, "4:memory:/elsewhere\n", "/docker/abc")] == [str(root)]
    assert [group.path for group in v2(tmp_path, "0::/../other")] == [str(tmp_path)]
    assert [group.path for group in v2(tmp_path, "0::/")] == [str(tmp_path)]


@pytest.mark.parametrize("membership", ["", "1:cpu:/\n", "garbage\n", "4:memory:/x\n"])
def test_without_a_group_the_machine_is_watched(tmp_path: pathlib.Path, membership: str) -> None:
    groups = groups_of("self", proc(membership, ""))  # type: ignore[arg-type]
    assert groups == []
    facts = MemoryWatch(groups).facts()
    assert (facts.limit_bytes, facts.oom_kills, facts.watched) == (0, 0, "machine")


def test_a_group_without_counters_falls_back_to_the_machine(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "app" / "worker", memory__max=str(64 * MIB))
    facts = MemoryWatch(v2(tmp_path)).facts()
    assert (facts.limit_bytes, facts.watched) == (64 * MIB, "machine")


def test_this_process_has_a_place() -> None:
    facts = MemoryWatch(groups_of()).facts()
    assert facts.machine_bytes > 1 << 28
    assert facts.watched in ("cgroup", "machine")
