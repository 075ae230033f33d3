"""`vectorizerctl local`: up, scale, status, logs, down.

Not for what they do (`control.py`): here options are read and results are said.
"""

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click
import yaml
from rich.console import Console

from vectorizer_operator.ctl.options import takes_files
from vectorizer_operator.ctl.report import Report
from vectorizer_operator.ctl.validate import say
from vectorizer_operator.local import control
from vectorizer_operator.local.control import LocalError
from vectorizer_operator.local.state import ClusterStatus, PodStatus, StateFolder, default_folder
from vectorizer_operator.local.wishes import Refused, ignored, read_wishes, scaled


@click.group("local")
def local() -> None:
    """Run clusters on this machine, without Kubernetes.

    The objects are those that the operator would apply; the pods of their StatefulSets run as local processes, with
    folders for volumes, kept running by a background process that ends with the last of them.
    """


def _dir_option(command: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--dir",
        "folder",
        type=click.Path(file_okay=False, path_type=Path),
        help="Folder of state, logs and data.  [default: $XDG_DATA_HOME/vectorizer/local, which usually is "
        "~/.local/share/vectorizer/local]",
    )(command)


_timeout_option = click.option(
    "--timeout", default=120.0, show_default=True, help="Seconds to wait until everything is ready."
)


@local.command("up")
@takes_files
@_timeout_option
@_dir_option
def up(files: Sequence[str], timeout: float, folder: Path | None) -> None:
    """Start the clusters of FILE, or bring those that run to what FILE says now.

    Secrets and ConfigMaps in FILE are there for the pods that refer to them. A file that breaks a rule changes
    nothing. Returns when every cluster is ready.
    """
    began = time.monotonic()
    with _failures():
        state = StateFolder(folder or default_folder())
        try:
            wishes, report = read_wishes(files)
        except Refused as refused:
            say(refused.report)
            sys.exit(refused.report.exit_status)
        _warn(report)
        before = {cluster.name: cluster for cluster in control.clusters(state)}
        generations = control.bring_up(state, wishes)
        with _progress() as progress, _interruptible():
            ready = control.wait_until_ready(state, generations, timeout=timeout, progress=progress)
    for wish in wishes:
        if wish.paused:
            click.echo(f"{wish.name}: nothing was changed, spec.paused is true")
    for cluster in ready:
        if not cluster.pods:
            click.echo(f"{cluster.name} is up, without a pod: spec.replicas is 0")
        elif before.get(cluster.name) == cluster:
            click.echo(f"{cluster.name} runs unchanged at {cluster.endpoint}")
        else:
            click.echo(
                f"{cluster.name} is ready at {cluster.endpoint} after {time.monotonic() - began:.1f} s"
            )
    _hints(ready, state, given=folder)


@local.command("scale")
@click.argument("names", nargs=-1, metavar="[NAME]")
@click.argument("replicas", type=click.IntRange(min=0))
@_timeout_option
@_dir_option
def scale(names: Sequence[str], replicas: int, timeout: float, folder: Path | None) -> None:
    """Have cluster NAME, or the only one, run as REPLICAS pods, until the next `up` says something else.

    More than one pod need spec.storage.objectStore. Shards move to pods that come, and away from those that go before
    they end. Returns when every shard is where it belongs.
    """
    if len(names) > 1:
        raise click.UsageError(f"name one cluster; given are {', '.join(names)}")
    began = time.monotonic()
    with _failures():
        state = StateFolder(folder or default_folder())
        name = names[0] if names else _only(control.clusters(state))
        generations = control.change(state, name, lambda desired: scaled(desired, replicas))
        with _progress() as progress, _interruptible():
            (ready,) = control.wait_until_ready(state, generations, timeout=timeout, progress=progress)
    pods = f"{len(ready.pods)} pod{'' if len(ready.pods) == 1 else 's'}"
    click.echo(f"{name} runs as {pods} after {time.monotonic() - began:.1f} s")


@local.command("status")
@click.option(
    "-o", "--output", type=click.Choice(["text", "json", "yaml"]), default="text", show_default=True
)
@_dir_option
def status(output: str, folder: Path | None) -> None:
    """Show the clusters that are up and their pods."""
    with _failures():
        state = StateFolder(folder or default_folder())
        clusters = control.clusters(state)
        supervised = not clusters or state.supervised()
    if output == "json":
        click.echo(json.dumps(_document(clusters), indent=2))
    elif output == "yaml":
        click.echo(yaml.safe_dump(_document(clusters), sort_keys=False), nl=False)
    elif not clusters:
        click.echo("no cluster is up: start one with `vectorizerctl local up -f FILE`")
    else:
        _table(clusters)
        if not supervised:
            click.echo(
                "Nothing runs: the supervisor has ended, as after a restart of this machine. "
                "`vectorizerctl local up -f FILE` starts everything again, with its data."
            )


@local.command("logs")
@click.argument("name", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on until the cluster is down or Ctrl-C.")
@_dir_option
def logs(name: str | None, follow: bool, folder: Path | None) -> None:
    """Print what the pods of a cluster have logged, over all their restarts."""
    with _failures():
        state = StateFolder(folder or default_folder())
        name = name or _only(control.clusters(state))
        if name not in state.desired():
            raise LocalError(f"there is no cluster {name!r} in {state.path}")
        offsets: dict[Path, int] = {}
        with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is how one stops following
            while True:
                up = name in {cluster.name for cluster in control.clusters(state)}
                paths = control.logs(state, name)
                for path, text in control.read_on(paths, offsets):
                    prefix = f"{path.parent.name}/{path.stem}: " if len(paths) > 1 else ""
                    click.echo("".join(f"{prefix}{line}\n" for line in text.splitlines()), nl=False)
                if not (follow and up):
                    break
                time.sleep(control.POLL_SECONDS)


@local.command("down")
@click.argument("name", required=False)
@click.option("--delete-data", is_flag=True, help="Delete its volumes as well, for good.")
@_dir_option
def down(name: str | None, delete_data: bool, folder: Path | None) -> None:
    """Stop cluster NAME, or all of them. Their data is kept for the next `up`."""
    with _failures():
        state = StateFolder(folder or default_folder())
        known = state.desired()
        if name is not None and name not in known:
            raise LocalError(f"there is no cluster {name!r} in {state.path}")
        names = [name] if name else [each for each in known if delete_data or known[each].up]
        if not names:
            click.echo("no cluster is up")
            return
        control.take_down(state, names)
        for each in names:
            if delete_data:
                control.delete_data(state, each)
                click.echo(f"{each} is down, its data deleted")
            else:
                click.echo(f"{each} is down, its data is kept in {state.data(each)}")


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except LocalError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise LocalError(
            "interrupted; it goes on starting in the background, see `vectorizerctl local status`"
        ) from None


def _fail(message: str) -> NoReturn:
    click.echo(f"Error: {message}", err=True)
    sys.exit(1)


def _warn(report: Report) -> None:
    for cluster in report.clusters:
        for finding in cluster.findings:
            click.echo(
                f"{cluster.source}:{finding.line}: {cluster.name}: warning: {finding.message}", err=True
            )
    for other in ignored(report):
        click.echo(
            f"{other.source}:{other.line}: {other.kind} {other.name}: means nothing here, ignored", err=True
        )


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[Sequence[ClusterStatus]], None]]:
    """Shows how far the clusters are: in place on a terminal, elsewhere a line for each change."""
    console = Console(stderr=True)
    said = ""
    spinner = console.status("starting") if console.is_terminal else None

    def show(clusters: Sequence[ClusterStatus]) -> None:
        nonlocal said
        text = ", ".join(_in_words(cluster) for cluster in clusters if not cluster.ready)
        if text and text != said:
            said = text
            if spinner:
                spinner.update(text)
            else:
                click.echo(text, err=True)

    with spinner or contextlib.nullcontext():
        yield show


def _in_words(cluster: ClusterStatus) -> str:
    if not cluster.pods:
        return f"{cluster.name}: starting"
    ready = sum(pod.ready for pod in cluster.pods)
    if ready == len(cluster.pods) and cluster.topology and cluster.topology.moving:
        return f"{cluster.name}: {'; '.join(cluster.topology.moving)}"
    return f"{cluster.name}: {ready} of {len(cluster.pods)} pods ready"


def _table(clusters: Sequence[ClusterStatus]) -> None:
    share = any(cluster.topology for cluster in clusters)
    rows = [["CLUSTER", "READY", "ENDPOINT", "POD", "PID", "RESTARTS", *(["MEMBER"] if share else [])]]
    for cluster in clusters:
        head = [cluster.name, "yes" if cluster.ready else "no"]
        for pod in cluster.pods:
            endpoint = f"http://{pod.address}" if pod.address else "-"
            row = [*head, endpoint, pod.name, str(pod.pid or "-"), str(pod.restarts)]
            rows.append([*row, _membership(cluster, pod)] if share else row)
            head = ["", ""]
        if not cluster.pods:
            rows.append(head + ["-"] * (len(rows[0]) - len(head)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for cluster in clusters:
        for pod in cluster.pods:
            if pod.message and not pod.ready:
                click.echo(f"{pod.name}: {pod.message}")
        for missing in cluster.topology.moving if cluster.topology else ():
            click.echo(f"{cluster.name}: {missing}")


def _membership(cluster: ClusterStatus, pod: PodStatus) -> str:
    if cluster.topology is None:
        return "-"
    return "yes" if pod.name in cluster.topology.members else "no"


def _document(clusters: Sequence[ClusterStatus]) -> dict[str, Any]:
    """What -o json and -o yaml print: a promise to programs."""
    return {
        "clusters": [
            {
                "name": cluster.name,
                "endpoint": cluster.endpoint,
                "ready": cluster.ready,
                "pods": [
                    {
                        "name": pod.name,
                        "address": pod.address,
                        "pid": pod.pid,
                        "ready": pod.ready,
                        "restarts": pod.restarts,
                        "message": pod.message,
                    }
                    for pod in cluster.pods
                ],
                "topology": cluster.topology and cluster.topology.model_dump(),
            }
            for cluster in clusters
        ]
    }


def _only(clusters: Sequence[ClusterStatus]) -> str:
    if len(clusters) != 1:
        names = ", ".join(cluster.name for cluster in clusters) or "none"
        raise LocalError(f"name a cluster; up are: {names}")
    return clusters[0].name


def _hints(clusters: Sequence[ClusterStatus], state: StateFolder, *, given: Path | None) -> None:
    cluster = next((cluster for cluster in clusters if cluster.endpoint), None)
    if cluster is None:
        return
    where = f" --dir {state.path}" if given else ""
    program = "vectorizerctl" if shutil.which("vectorizerctl") else sys.argv[0]
    click.echo(
        "\nTry:\n"
        f"  curl {cluster.endpoint}/cluster/memory\n"
        f'  QdrantClient("{cluster.endpoint}")  in Python, with the unmodified qdrant-client\n'
        f"  {program} local status{where}\n"
        f"  {program} local logs {cluster.name} -f{where}\n"
        f"  {program} local down {cluster.name}{where}"
    )
