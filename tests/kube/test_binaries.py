"""Finding and building the programs of the tests, with a small `go` that writes small programs."""

import dataclasses
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.kube import binaries
from tests.kube.eventually import eventually

NAMES = [tool.name for tool in binaries.TOOLS]

FAKE_GO = f"""#!{sys.executable} -IS
import os, pathlib, sys, time
arguments = sys.argv[1:]
if arguments == ["env", "GOVERSION"]:
    sys.exit(print(os.environ.get("FAKE_GO_VERSION", "go1.26.8")))
log = pathlib.Path(os.environ["FAKE_GO_LOG"])
name = arguments[-1].partition("@")[0].rpartition("/")[2].replace("v3", "etcd")
with log.open("a") as lines:
    print(arguments[0], name, os.environ["CGO_ENABLED"], os.environ.get("GOEXPERIMENT"), file=lines)
if name == os.environ.get("FAKE_GO_FAILS_AT"):
    sys.exit("\\n".join(f"line {{n}}" for n in range(100)) + "\\nundefined: everything")
if name == os.environ.get("FAKE_GO_HANGS_AT"):
    log.with_name("pid").write_text(str(os.getpid()))
    time.sleep(300)
output = arguments[arguments.index("-o") + 1] if "-o" in arguments else os.environ["GOBIN"] + "/" + name
pathlib.Path(output).write_text("#!/bin/sh\\n")
pathlib.Path(output).chmod(0o755)
"""


class Machine:
    """A home folder, a PATH with only the small `go`, and nothing else in the environment."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.home.mkdir()
        self.log = folder / "log"
        self.log.touch()
        self.go = folder / "bin" / "go"
        self.go.parent.mkdir()
        self.go.write_text(FAKE_GO)
        self.go.chmod(0o755)

    def start(self, **environment: str) -> subprocess.Popen[str]:
        own = {"HOME": str(self.home), "PATH": str(self.go.parent), "FAKE_GO_LOG": str(self.log)}
        return subprocess.Popen(
            [sys.executable, "-m", "tests.kube.binaries"],
            cwd=Path(__file__).parents[2],
            env=own | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, **environment: str) -> subprocess.CompletedProcess[str]:
        with self.start(**environment) as process:
            out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    @property
    def cache(self) -> Path:
        return self.home / ".cache" / "vectorizer-operator" / "kube"

    @property
    def cached(self) -> list[str]:
        """The programs in the cache."""
        assert (self.cache / ".lock").exists()
        return sorted(path.name for path in self.cache.glob("*/*"))

    @property
    def built(self) -> list[str]:
        return [line.split()[1] for line in self.log.read_text().splitlines()]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_what_is_missing_is_built_once_and_found_from_then_on(machine: Machine) -> None:
    first = machine.run(GOEXPERIMENT="jsonv2", GOFLAGS="-mod=vendor")
    assert (first.returncode, first.stderr) == (0, "")
    assert machine.built == NAMES
    assert all("0 None" in line for line in machine.log.read_text().splitlines()), "cgo off, no experiments"
    assert machine.cached == sorted(NAMES)
    for name in NAMES:
        assert f"{name}: done in " in first.stdout

    second = machine.run()
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert machine.built == NAMES, "nothing was built again"


def test_a_failed_build_shows_its_last_lines_and_the_next_run_goes_on_from_there(machine: Machine) -> None:
    failed = machine.run(FAKE_GO_FAILS_AT="kube-controller-manager")
    assert failed.returncode == 1
    assert "kube-controller-manager" in failed.stderr.splitlines()[0]
    assert failed.stderr.rstrip().endswith("line 99\nundefined: everything")
    assert "line 50\n" not in failed.stderr
    assert machine.cached == ["etcd", "kube-apiserver"]

    assert machine.run().returncode == 0
    assert machine.built[-len(NAMES) + 2 :] == NAMES[2:]
    assert machine.built.count("etcd") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_ends_the_build_and_leaves_no_part_of_it(
    machine: Machine, number: signal.Signals
) -> None:
    pid = machine.log.with_name("pid")
    with machine.start(FAKE_GO_HANGS_AT="kubectl") as process:
        eventually(lambda: pid.exists() and pid.read_text())
        process.send_signal(number)
        assert process.wait(timeout=60) == 130
    assert not Path(f"/proc/{pid.read_text()}/exe").exists()
    assert "kubectl" not in machine.cached
    assert not (machine.cache / ".building").exists()
    assert machine.run().returncode == 0


def test_two_runs_at_once_build_once(machine: Machine) -> None:
    results: list[subprocess.CompletedProcess[str]] = []
    threads = [threading.Thread(target=lambda: results.append(machine.run())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.returncode for result in results] == [0, 0]
    assert machine.built == NAMES


def test_programs_of_kubebuilder_assets_are_used_and_only_the_others_built(
    machine: Machine, tmp_path: Path
) -> None:
    assets = tmp_path / "assets"
    assets.mkdir()
    for name in ("etcd", "kube-apiserver", "kubectl"):
        (assets / name).touch(mode=0o755)
    (assets / "helm").touch(mode=0o644)  # not a program
    assert machine.run(KUBEBUILDER_ASSETS=str(assets)).returncode == 0
    assert machine.built == [name for name in NAMES if name not in ("etcd", "kube-apiserver", "kubectl")]


def test_xdg_cache_home_is_honoured(machine: Machine, tmp_path: Path) -> None:
    assert machine.run(XDG_CACHE_HOME=str(tmp_path / "xdg")).returncode == 0
    assert (tmp_path / "xdg" / "vectorizer-operator" / "kube").is_dir()
    assert not (machine.home / ".cache").exists()


def test_a_cache_folder_that_cannot_be_written_is_named(machine: Machine) -> None:
    (machine.home / ".cache").touch()
    refused = machine.run()
    assert refused.returncode == 1
    assert str(machine.home / ".cache") in refused.stderr


def test_a_new_version_of_a_program_is_built_and_no_other(machine: Machine) -> None:
    assert machine.run().returncode == 0
    (helm,) = machine.cache.glob("helm-*")
    helm.rename(machine.cache / "helm-of-another-version")
    assert machine.run().returncode == 0
    assert machine.built == [*NAMES, "helm"]


def test_what_a_program_is_built_from_tells_where_it_is_kept(tmp_path: Path) -> None:
    (tmp_path / "go.mod").write_text("module one")
    tool = binaries.Tool("etcd", ("build",), 1, module=tmp_path)
    before = tool.cached
    assert before != dataclasses.replace(tool, arguments=("build", "-trimpath")).cached
    assert before == dataclasses.replace(tool, seconds=2).cached
    (tmp_path / "go.mod").write_text("module two")
    assert before != tool.cached


def test_a_missing_program_is_named_with_the_command_that_makes_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    with pytest.raises(FileNotFoundError, match=r"etcd not found in .*/etcd: run `make kube`"):
        binaries.find("etcd")


@pytest.mark.parametrize(
    ("says", "minor"), [("go1.26.8", 26), ("go1.27", 27), ("devel go1.28-abc", None), ("", None)]
)
def test_the_version_of_a_go_is_read_from_what_it_says(tmp_path: Path, says: str, minor: int | None) -> None:
    go = tmp_path / "go"
    go.write_text(f"#!/bin/sh\necho '{says}'\n")
    go.chmod(0o755)
    assert binaries.go_version(go) == minor


def test_what_is_not_a_go_has_no_version(tmp_path: Path) -> None:
    assert binaries.go_version(tmp_path / "go") is None
