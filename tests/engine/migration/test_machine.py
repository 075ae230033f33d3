"""The memory that is left: the machine's, and what the container's limit leaves of it."""

from __future__ import annotations

from pathlib import Path

from vectorizer_engine.migration.machine import available_memory


def test_the_least_of_machine_and_container_counts(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    nothing = tmp_path / "nothing"
    assert available_memory(meminfo=meminfo, cgroup=nothing) is None
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable:   1000 kB\n")
    assert available_memory(meminfo=meminfo, cgroup=nothing) == 1_024_000

    second = tmp_path / "second"
    second.mkdir()
    (second / "memory.max").write_text("max\n")
    (second / "memory.current").write_text("10\n")
    (second / "memory.stat").write_text("anon 1\ninactive_file 300\n")
    assert available_memory(meminfo=meminfo, cgroup=second) == 1_024_000
    (second / "memory.max").write_text("5000\n")
    (second / "memory.current").write_text("1000\n")
    assert available_memory(meminfo=meminfo, cgroup=second) == 4300

    first = tmp_path / "first" / "memory"
    first.mkdir(parents=True)
    (first / "memory.limit_in_bytes").write_text("100\n")
    (first / "memory.usage_in_bytes").write_text("150\n")
    (first / "memory.stat").write_text("total_inactive_file 20\n")
    assert available_memory(meminfo=meminfo, cgroup=first.parent) == 0


def test_this_machine_says_something() -> None:
    assert (available_memory() or 0) > 0
