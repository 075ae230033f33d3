"""Which processes of this machine work in a folder."""

import contextlib
from pathlib import Path


def mentioning(folder: Path) -> list[int]:
    """The processes whose command line names `folder`: its supervisor, and engines with their files there."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended meanwhile
            if str(folder).encode() in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return found


def parent(pid: int) -> int:
    """The process that started `pid`."""
    return int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
