"""How much memory this process may still take: of the machine, and of the container that it runs in."""

from __future__ import annotations

import re
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUPS = (
    # limit, used, statistics, and what the statistics call pages that are given back on demand
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)


def available_memory(*, meminfo: Path = _MEMINFO, cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes, or None where the system does not say."""
    known = [each for each in (_of_machine(meminfo), _of_container(cgroup)) if each is not None]
    return min(known, default=None)


def _of_machine(meminfo: Path) -> int | None:
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _of_container(cgroup: Path) -> int | None:
    for limit_name, used_name, stat_name, reclaimable_name in _CGROUPS:
        try:
            limit = int((cgroup / limit_name).read_text())
            used = int((cgroup / used_name).read_text())
            statistics = (cgroup / stat_name).read_text()
        except (OSError, ValueError):  # another version of cgroups, or "max": no limit
            continue
        reclaimable = re.search(rf"^{reclaimable_name} (\d+)", statistics, re.MULTILINE)
        return max(0, limit - used + (int(reclaimable[1]) if reclaimable else 0))
    return None
