"""Compiles engine/native/ into the module `vectorizer_engine._native` when a wheel or an editable install is made.

With the C++ compiler that Python's configuration or the variable CXX names, for any processor of its kind: what newer
ones can do is chosen when the module is loaded (`kernels.cpp`). It is of the stable ABI, so one does for every Python
from 3.11 on.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = Path("engine/native")
MODULE = Path("engine/vectorizer_engine/_native.abi3.so")

FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-pthread", "-DNDEBUG", "-Wall", "-Wextra")

IN_ANY_ORDER = ("-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math", "-fno-math-errno")
"""For the kernels alone: a sum of floats is vectorised only where it may be added up in another order."""


class NativeModule(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        compile_module(root / SOURCES, root / MODULE)
        build_data["artifacts"].append(f"/{MODULE}")
        build_data["pure_python"] = False
        build_data["infer_tag"] = True


def compile_module(sources: Path, module: Path) -> None:
    """Compile every .cpp file in *sources*, and link them to *module*. Ends the build where that fails."""
    headers = Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").exists():
        sys.exit(
            f"Python's headers are not in {headers}: install them (apt-get install python3-dev), or use a Python that "
            "has its own"
        )
    include = f"-I{headers}"
    with tempfile.TemporaryDirectory() as folder:
        objects: list[Path] = []
        for source in sorted(sources.glob("*.cpp")):
            objects.append(Path(folder) / source.with_suffix(".o").name)
            more = IN_ANY_ORDER if source.stem == "kernels" else ()
            run(*compiler(), *FLAGS, *more, include, "-c", source, "-o", objects[-1])
        # Beside it first: who has the old one loaded goes on with it.
        new = module.with_suffix(".new")
        run(*compiler(), *_LINKED, *objects, "-o", new)
        new.replace(module)


_LINKED = ("-bundle", "-undefined", "dynamic_lookup") if sys.platform == "darwin" else ("-shared", "-pthread")


def compiler() -> list[str]:
    """The C++ compiler, as a command."""
    return shlex.split(os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++")


def run(*command: str | Path) -> None:
    try:
        subprocess.run(command, check=True)
    except FileNotFoundError:
        sys.exit(
            f"there is no C++ compiler '{command[0]}': install one (apt-get install g++), or name yours in CXX"
        )
    except subprocess.CalledProcessError as error:
        sys.exit(f"the C++ compiler failed with status {error.returncode}; its message is above")
