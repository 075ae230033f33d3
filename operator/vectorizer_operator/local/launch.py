"""How one container of a pod becomes a local command: its files, paths, environment and ports.

In Kubernetes a pod finds its files where mounts put them and has an address of its own. A local process has
neither, so the same is said in other words: volumes become folders, the mount paths in `command`, `args`, `env`
and `workingDir` are rewritten to them, `$(VAR)` references and the downward API are resolved, and the engine is
told by environment which address, port and folders are its own.

Not for running the command (`runner.py`), and not a sandbox: user, limits and security context of the container
are not applied. What cannot be honoured is refused by name, never skipped in silence.
"""

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vectorizer_engine.config import ConfigError, read_config
from vectorizer_operator.api.rules import value_at

ENGINE_DATA_PATH = "/var/lib/vectorizer"
"""Where the engine's container mounts its data; `storage.path` of its configuration points there."""

ENGINE_TENANTS_PATH = "/etc/vectorizer-tenants"
"""Where it mounts the keys of its tenants; `tenants.keys_folder` of its configuration points there."""

_HONOURED = {
    *("name", "command", "args", "env", "ports", "volumeMounts", "workingDir"),
    *("startupProbe", "readinessProbe", "livenessProbe"),
}
# These say how a container runtime isolates, pulls and accounts; a plain process has nothing to apply them to.
_MEANINGLESS = {
    *("image", "imagePullPolicy", "resources", "securityContext"),
    *("terminationMessagePath", "terminationMessagePolicy"),
}
# A pod does not see the settings of whoever runs the tests or `vectorizerctl`.
_NOT_INHERITED = ("VECTORIZER__", "KUBECONFIG", "KUBERNETES_")
_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_.-][A-Za-z0-9_.-]*)\)")


class PodError(ValueError):
    """A pod that cannot run as local processes; the message names the pod, the field and what was expected."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a pod finds in its namespace: `{name: {key: content}}`, and the folder of each volume claim."""

    config_maps: Mapping[str, Mapping[str, str | bytes]] = field(default_factory=dict)
    secrets: Mapping[str, Mapping[str, str | bytes]] = field(default_factory=dict)
    claims: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A command that is ready to run. `ports` maps each container port, by name and by number, to the real one."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    ports: Mapping[str | int, int]


def launch(
    pod: Mapping[str, Any],
    container: Mapping[str, Any],
    *,
    address: str,
    folder: Path,
    inputs: Inputs,
    environment: Mapping[str, str],
    port: Callable[[int], int],
) -> Launch:
    """Prepare `container` of `pod`: write its volumes below `folder` and resolve what to run.

    `port` chooses the real port for a declared one; `environment` is given to the process on top of its own.
    Raises PodError for what cannot be honoured, OSError when `folder` cannot be written.
    """
    where = f"pod {pod['metadata']['name']}, container {container['name']}"
    if unknown := sorted(set(container) - _HONOURED - _MEANINGLESS):
        raise PodError(f"{where}: {', '.join(unknown)} cannot be honoured by a local process; remove it")
    mounts = _Mounts(dict(_mounted(pod, container, where=where, folder=folder, inputs=inputs)))
    ports: dict[str | int, int] = {}
    for declared in container.get("ports", ()):
        real = port(declared["containerPort"])
        ports[declared["containerPort"]] = real
        if name := declared.get("name"):
            ports[name] = real
    own: dict[str, str] = {}
    unset: set[str] = set()
    for variable in container.get("env", ()):
        if "value" in variable or "valueFrom" not in variable:
            own[variable["name"]] = _expand(mounts.rewrite(variable.get("value", "")), own)
        else:
            value = _referenced(pod, variable["valueFrom"], where=where, address=address, inputs=inputs)
            if value is None:
                unset.add(variable["name"])
            else:
                own[variable["name"]] = value
    words = [*container.get("command", ()), *container.get("args", ())]
    if not container.get("command"):
        raise PodError(f"{where}: has no command; a local process cannot ask the image for its entry point")
    argv = [_expand(mounts.rewrite(word), own) for word in words]
    program = argv[0]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(_NOT_INHERITED) and k not in unset}
    if temporary := mounts.folders.get("/tmp"):
        inherited["TMPDIR"] = str(temporary)
    own |= _namespace_environment(argv, address, ports, mounts)
    work = container.get("workingDir")
    return Launch(
        argv=(_executable(program, where=where), *argv[1:]),
        env=inherited | own | dict(environment),
        cwd=Path(mounts.rewrite(work)) if work else folder,
        ports=ports,
    )


def _namespace_environment(
    argv: Sequence[str], address: str, ports: Mapping[str | int, int], mounts: "_Mounts"
) -> Iterator[tuple[str, str]]:
    """What our own programs would have from a network namespace and a mount, in the words they understand."""
    program = argv[0]
    if program == "vectorizer":
        yield "VECTORIZER__SERVER__HOST", address
        if ports:
            yield "VECTORIZER__SERVER__PORT", str(next(iter(ports.values())))
        if data := mounts.folders.get(ENGINE_DATA_PATH):
            yield "VECTORIZER__STORAGE__PATH", str(data)
        if keys := mounts.folders.get(ENGINE_TENANTS_PATH):
            yield "VECTORIZER__TENANTS__KEYS_FOLDER", str(keys)
        if objects := _folder_of_objects(argv):
            yield "VECTORIZER__STORAGE__OBJECT_STORE__URL", f"file://{quote(mounts.rewrite(objects))}"
    elif program == "vectorizer-operator":
        yield "VECTORIZER_OPERATOR_LISTEN", address


def _folder_of_objects(argv: Sequence[str]) -> str | None:
    """The folder that is the object store by the engine's configuration, if there is one."""
    try:
        config = read_config(Path(argv[argv.index("--config") + 1]), {})
    except (ValueError, IndexError, ConfigError):
        return None  # the engine says itself what is wrong with it
    url = value_at(config, ("storage", "object_store", "url"))
    return url.removeprefix("file://") if isinstance(url, str) and url.startswith("file://") else None


def _executable(program: str, *, where: str) -> str:
    """The console script beside this Python, else what PATH has: a pod's image carries both on its PATH."""
    beside = Path(sys.executable).with_name(program)
    found = str(beside) if "/" not in program and os.access(beside, os.X_OK) else shutil.which(program)
    if found is None:
        raise PodError(f"{where}: command {program!r} is neither beside {sys.executable} nor on PATH")
    return found


class _Mounts:
    """The folder behind each mount path of a container, and the rewriting of texts that mention those paths."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self.folders = folders
        longest_first = sorted(map(re.escape, folders), key=len, reverse=True)
        # A mount path counts where a path starts and ends: `--config=/etc/x/y.yml` yes, `/srv/etc/x` no.
        self._pattern = re.compile(rf"(?<![\w./-])({'|'.join(longest_first)})(?![\w.-])") if folders else None

    def rewrite(self, text: str) -> str:
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda match: str(self.folders[match[1]]), text)


def _mounted(
    pod: Mapping[str, Any], container: Mapping[str, Any], *, where: str, folder: Path, inputs: Inputs
) -> Iterator[tuple[str, Path]]:
    volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", ())}
    for mount in container.get("volumeMounts", ()):
        if mount["name"] not in volumes:
            raise PodError(f"{where}: mounts volume {mount['name']!r}, which the pod does not have")
        source = _materialise(volumes[mount["name"]], where=where, folder=folder, inputs=inputs)
        yield mount["mountPath"].rstrip("/"), source / mount.get("subPath", "")


def _materialise(volume: Mapping[str, Any], *, where: str, folder: Path, inputs: Inputs) -> Path:
    """Make the volume's folder below `folder` (a claim has its own) and return it."""
    name = volume["name"]
    path: Path = folder / "volumes" / name
    if "persistentVolumeClaim" in volume:
        claim: str = volume["persistentVolumeClaim"]["claimName"]
        if claim not in inputs.claims:
            raise PodError(f"{where}: volume {name!r} needs the persistent volume claim {claim!r}: not found")
        return inputs.claims[claim]
    if "emptyDir" in volume:
        path.mkdir(parents=True, exist_ok=True)
    elif "configMap" in volume:
        source = volume["configMap"]
        _write(path, "config map", source["name"], source, inputs.config_maps, where=where)
    elif "secret" in volume:
        source = volume["secret"]
        _write(path, "secret", source["secretName"], source, inputs.secrets, where=where)
    elif all("secret" in source for source in volume.get("projected", {}).get("sources", [{}])):
        for source in volume["projected"]["sources"]:
            _write(path, "secret", source["secret"]["name"], source["secret"], inputs.secrets, where=where)
    else:
        kind = next((key for key in volume if key != "name"), "empty")
        raise PodError(
            f"{where}: volume {name!r} is of kind {kind}; a local process can have "
            "configMap, secret, projected secrets, emptyDir and persistentVolumeClaim"
        )
    return path


def _write(
    path: Path,
    kind: str,
    name: str,
    source: Mapping[str, Any],
    found: Mapping[str, Mapping[str, str | bytes]],
    *,
    where: str,
) -> None:
    path.mkdir(parents=True, exist_ok=True)
    contents = found.get(name)
    if contents is None:
        if source.get("optional"):
            return
        raise PodError(f"{where}: needs the {kind} {name!r}: not found")
    wanted = source.get("items") or [{"key": key, "path": key} for key in contents]
    for item in wanted:
        if item["key"] not in contents:
            raise PodError(
                f"{where}: needs key {item['key']!r} of the {kind} {name!r}, which it does not have"
            )
        target = path / item["path"]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch(mode=0o600)
        target.write_bytes(_bytes(contents[item["key"]]))


def _referenced(
    pod: Mapping[str, Any], source: Mapping[str, Any], *, where: str, address: str, inputs: Inputs
) -> str | None:
    """The value of a `valueFrom`; None where an optional reference leads nowhere, so the variable stays unset."""
    if "fieldRef" in source:
        return _pod_field(pod, source["fieldRef"]["fieldPath"], where=where, address=address)
    for key, kind, found in (
        ("configMapKeyRef", "config map", inputs.config_maps),
        ("secretKeyRef", "secret", inputs.secrets),
    ):
        if key in source:
            reference = source[key]
            value = found.get(reference["name"], {}).get(reference["key"])
            if value is None and not reference.get("optional"):
                raise PodError(
                    f"{where}: needs key {reference['key']!r} of the {kind} {reference['name']!r}: not found"
                )
            return None if value is None else _bytes(value).decode()
    raise PodError(
        f"{where}: valueFrom {next(iter(source), 'nothing')} cannot be honoured by a local process"
    )


def _pod_field(pod: Mapping[str, Any], path: str, *, where: str, address: str) -> str:
    """The downward API (https://kubernetes.io/docs/concepts/workloads/pods/downward-api/)."""
    metadata, spec = pod["metadata"], pod["spec"]
    if match := re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path):
        return str(metadata.get(match[1], {}).get(match[2], ""))
    fields = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata["namespace"],
        "metadata.uid": metadata.get("uid", ""),
        "spec.nodeName": spec.get("nodeName", ""),
        "spec.serviceAccountName": spec.get("serviceAccountName", "default"),
        "status.podIP": address,
    }
    if path not in fields:
        raise PodError(f"{where}: fieldPath {path!r} is unknown here; known are {', '.join(fields)}")
    return str(fields[path])


def _expand(text: str, variables: Mapping[str, str]) -> str:
    """`$(VAR)` as Kubernetes expands it: what is not defined stays as written, `$$` is one `$`."""
    return _REFERENCE.sub(lambda match: "$" if match[0] == "$$" else variables.get(match[1], match[0]), text)


def _bytes(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content
