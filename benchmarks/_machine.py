"""What every benchmark says of the machine it ran on."""

import os
import platform
import re
from pathlib import Path

from vectorizer_engine.cores import usable_cores


def describe() -> str:
    """Processor, cores that this process may use, load and Python, in one line."""
    cpuinfo = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else []
    return (
        f"{models[0] if models else platform.machine()}, {usable_cores()} cores, load {os.getloadavg()[0]:.1f}, "
        f"Python {platform.python_version()}"
    )
