"""The load generator of the benchmarks over HTTP: wrk, a bare one in C, so that the servers are measured, not it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

_SCRIPT = """
local bodies = {}
for body in io.lines("%s") do bodies[#bodies + 1] = body end
local requests, turn, other = {}, 0, 0
function init()
  for i, body in ipairs(bodies) do requests[i] = wrk.format("POST", "%s", {%s}, body) end
end
function request()
  turn = turn %% #requests + 1
  return requests[turn]
end
function done(summary, latency)
  io.write(string.format("RESULT %%d %%d %%d %%d %%d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), summary.errors.status + summary.errors.timeout
    + summary.errors.connect + summary.errors.read + summary.errors.write))
end
"""


class Load(NamedTuple):
    """What a load came to. Latencies are milliseconds."""

    per_second: float
    p50: float
    p99: float
    errors: int


HOW_TO_GET_IT = "wrk is not on the PATH and generates the load: apt-get install wrk, or brew install wrk"


def is_there() -> bool:
    return shutil.which("wrk") is not None


def post(
    url: str,
    bodies: Sequence[bytes],
    *,
    folder: Path,
    connections: int,
    seconds: float,
    headers: Mapping[str, str] | None = None,
) -> Load:
    """Send *bodies*, each without a line break, in turn to *url* from one thread over so many connections."""
    server, slash, path = url.removeprefix("http://").partition("/")
    lines = folder / "bodies"
    lines.write_bytes(b"\n".join(bodies) + b"\n")
    sent = {"content-type": "application/json", **(headers or {})}
    table = ", ".join(f'["{name}"] = "{value}"' for name, value in sent.items())
    script = folder / "post.lua"
    script.write_text(_SCRIPT % (lines, slash + path, table))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "60s"]
    printed = subprocess.run(
        [*command, "-s", script, f"http://{server}/"], check=True, capture_output=True, text=True
    ).stdout
    found = re.search(r"^RESULT (\d+) (\d+) (\d+) (\d+) (\d+)$", printed, re.MULTILINE)
    assert found is not None, printed
    requests, micros, p50, p99, errors = (int(number) for number in found.groups())
    return Load(requests / (micros / 1e6), p50 / 1e3, p99 / 1e3, errors)
