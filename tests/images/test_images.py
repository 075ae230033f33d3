"""The images, as far as can be proved without building one: what the Dockerfile installs is enough, and no more.

Each environment is made as its image is: an empty one, the hashed wheels of its lock and nothing else, and the
project's own wheel, built from what .dockerignore lets through.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.kube.eventually import eventually

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
BIN = Path(sys.executable).parent


def run(*command: str | Path, cwd: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def do(*command: str | Path, cwd: Path = ROOT) -> str:
    done = run(*command, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def copied() -> Iterator[str]:
    """What the Dockerfile copies out of the repository."""
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE):
        yield from line.split()[:-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sources = tmp_path_factory.mktemp("sources")
    for name in copied():
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, sources)
    do(BIN / "hatchling", "build", "-t", "wheel", "-d", "dist", cwd=sources)
    (built,) = (sources / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def images(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The virtual environment of each image."""
    folder = tmp_path_factory.mktemp("images")
    for name in ("operator", "engine"):
        do(BIN / "uv", "venv", "--python", sys.executable, folder / name)
        install = (BIN / "uv", "pip", "install", "--system-certs", "--python", folder / name)
        do(*install, "--only-binary", ":all:", "--require-hashes", "-r", f"requirements/{name}.txt")
        do(*install, "--no-deps", "--no-index", wheel)
    return {name: folder / name for name in ("operator", "engine")}


def importable(environment: Path, modules: tuple[str, ...]) -> set[str]:
    """Those of `modules` that can be imported there."""
    script = """
import importlib, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError:
        continue
    print(name)
"""
    return set(do(environment / "bin" / "python", "-c", script, *modules).split())


def test_each_image_holds_its_own_libraries_and_not_the_others(images: dict[str, Path]) -> None:
    of_the_operator = ("kopf", "kubernetes.aio", "aiohttp", "vectorizer_operator.controller.main")
    of_the_engine = ("numpy", "faiss", "uvicorn", "vectorizer_engine.api.server")
    all_of_them = (*of_the_operator, *of_the_engine, "pip")
    assert importable(images["operator"], all_of_them) == set(of_the_operator)
    assert importable(images["engine"], all_of_them) == set(of_the_engine)


@pytest.mark.parametrize(("name", "command"), [("operator", "run"), ("engine", "serve")])
def test_each_images_entry_point_answers(images: dict[str, Path], name: str, command: str) -> None:
    (entry,) = re.findall(rf"FROM runtime AS {name}\n(?:.*\n)*?ENTRYPOINT (\[.+\])", DOCKERFILE)
    (program,) = json.loads(entry)
    assert "Usage:" in do(images[name] / "bin" / program, command, "--help")


def test_a_command_whose_libraries_are_not_there_says_how_to_install_them(images: dict[str, Path]) -> None:
    missing = run(images["engine"] / "bin" / "vectorizerctl", "local", "status")
    assert missing.returncode == 1
    assert missing.stderr.startswith("Error: `local` needs the Python package ")
    assert "pip install 'vectorizer-operator[operator,engine]'" in missing.stderr


@pytest.mark.parametrize("name", ["operator", "engine"])
def test_rules_are_checked_in_both_images(images: dict[str, Path], name: str, tmp_path: Path) -> None:
    image = images[name]
    assert "valid" in do(image / "bin" / "vectorizerctl", "validate", "examples/quickstart.yaml")
    assert run(image / "bin" / "vectorizerctl", "validate", "examples/refused.yaml").returncode == 1
    config = tmp_path / "config.yml"
    config.write_text("cluster: {enabled: true, max_cache_memory_bytes: 2Gi}")
    refused = run(image / "bin" / "vectorizer", "check-config", "--config", config)
    assert refused.returncode == 1
    assert "CLUSTER_003" in refused.stdout + refused.stderr


def test_the_engines_image_serves_and_writes_only_to_what_is_mounted(
    images: dict[str, Path], tmp_path: Path
) -> None:
    image = images["engine"]
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    (tmp_path / "config.yml").write_text(
        f"server: {{port: {port}}}\nstorage: {{path: {tmp_path}/data}}\ncluster: {{enabled: true}}\n"
    )
    before = {file: file.stat().st_mtime_ns for file in image.rglob("*")}
    engine = subprocess.Popen(
        [image / "bin" / "vectorizer", "serve", "--config", tmp_path / "config.yml"],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:

        def ready() -> bool:
            try:
                return bool(
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5).status == 200
                )
            except OSError:
                return False

        eventually(ready)
    finally:
        engine.terminate()
        engine.communicate(timeout=30)
    assert engine.returncode == 0
    assert {file: file.stat().st_mtime_ns for file in image.rglob("*")} == before


def test_the_dockerfile_copies_only_what_exists_and_is_let_through() -> None:
    patterns = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = [pattern.removeprefix("!") for pattern in patterns if pattern.startswith("!")]
    for name in copied():
        assert (ROOT / name).exists(), name
        assert any(fnmatch(name.split("/")[0], pattern) for pattern in allowed), name


def test_the_final_images_start_from_a_slim_python_without_pip_as_a_numeric_user() -> None:
    stages = {
        name: (base, body)
        for base, name, body in re.findall(
            r"^FROM (\S+) AS (\S+)\n((?:(?!FROM ).*\n)*)", DOCKERFILE, re.MULTILINE
        )
    }
    for final in ("operator", "engine"):
        base, body = stages[final]
        assert base == "runtime"
        assert "RUN" not in body
    base, body = stages["runtime"]
    assert re.fullmatch(r"python:3\.\d+-slim", base)
    assert "pip uninstall" in body
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", body, re.MULTILINE)
