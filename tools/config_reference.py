"""`docs/users/CONFIGURATION.md`: every setting of the engine, as those read about it who run one."""

from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from tools.config_example import bounds, default_value
from vectorizer_engine.config import ENVIRONMENT_PREFIX, Config, is_section
from vectorizer_engine.config_types import Bytes, KeyInFile
from vectorizer_engine.tenants import TenantConfig

_HEAD = f"""# Configuration of the engine

Every setting of `config.yml`. Made from the models by `make generate`. `config.example.yml` has the same as a file to
copy. In Kubernetes the operator writes this file: set the fields of the
[VectorizerCluster](../reference/vectorizercluster.md) instead, which the last table maps to settings.

- `vectorizer check-config --config FILE` checks a file without starting anything. Exit status 0: valid, 1: a rule is
  broken or a setting is wrong, 2: the file cannot be read.
- An unknown setting is refused, with the nearest known name. So is a value outside its range. The engine does not start
  then, and says everything that is wrong at once.
- The environment overrides the file: `{ENVIRONMENT_PREFIX}` and the path in capitals, with two underscores for each
  dot. Lists are written as YAML: `{ENVIRONMENT_PREFIX}FILE_WATCHER__PATHS='[/srv/inbox]'`.
- A size is a whole number of bytes or a quantity such as `512Mi`.
- SIGHUP makes a running engine read the file again. What changes live is said below; every other change is named in the
  log and waits for a restart. A file that breaks a rule or cannot be read changes nothing.
- At start the engine logs every setting with its value, and which are defaults. Keys are masked.

"""

_FROM_SPEC = {
    "server.host": "always 0.0.0.0",
    "server.port": "always 6333",
    "storage.path": "always /var/lib/vectorizer, the pod's volume",
    "storage.type": "`spec.storage.type`",
    "storage.object_store.url": "`spec.storage.objectStore.url`",
    "storage.object_store.endpoint": "`spec.storage.objectStore.endpoint`",
    "storage.object_store.region": "`spec.storage.objectStore.region`",
    "cluster.enabled": "always true",
    "cluster.max_cache_memory_bytes": "`spec.cluster.maxCacheMemory`",
    "cluster.enforce_mmap_storage": "`spec.cluster.enforceMmapStorage`",
    "cluster.disable_file_watcher": "`spec.cluster.disableFileWatcher`",
    "cluster.cache_warning_threshold": "`spec.cluster.cacheWarningThresholdPercent`",
    "file_watcher.enabled": "`spec.fileWatcher.enabled`",
    "auth.api_key": "`spec.auth.apiKeySecretRef`, through the environment",
    "auth.read_only_api_key": "`spec.auth.readOnlyApiKeySecretRef`, through the environment",
    "tenants.enabled": "true where `spec.tenants` names one",
    "tenants.keys_folder": "always /etc/vectorizer-tenants",
    "tenants.members": "`spec.tenants`",
}
"""Where the value of a setting comes from in a pod. What is not here keeps its default there."""

_BY_VALIDATOR = ((get_args(Bytes)[1], "size"), (get_args(KeyInFile)[1], "path of a file with one key"))
"""Types that are what their validator takes."""

_NAMES: dict[Any, str] = {
    str: "text",
    bool: "true or false",
    int: "whole number",
    Path: "path",
    SecretStr: "text",
    TenantConfig: "tenant",
}


def config_reference() -> str:
    return _HEAD + "".join(_sections()) + _from_spec()


def _sections() -> Iterator[str]:
    for name, info in Config.model_fields.items():
        yield f"## {name}\n\n| setting | value | default | |\n|---|---|---|---|\n"
        yield from _rows(info.annotation, name)
        yield "\n"


def _rows(model: Any, path: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        here = f"{path}.{name}"
        if is_section(field.annotation):
            yield from _rows(field.annotation, here)
            continue
        yield f"| `{here}` | {_value(field)} | {_default(field)} | {field.description} |\n"
        (item, *_) = get_args(field.annotation) or (None,)
        if is_section(item):
            yield from _rows(item, f"{here}[]")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    return "unset" if field.default is None else f"`{default_value(field)}`"


def _value(field: FieldInfo) -> str:
    """What may be written there, in words."""
    limits = bounds(field).strip().rstrip(".")
    limits = limits[:1].lower() + limits[1:]
    return ", ".join(filter(None, (_kind(field.annotation, field.metadata), limits)))


def _kind(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    origin, inner = get_origin(annotation), [each for each in get_args(annotation) if each is not NoneType]
    if origin is Annotated:
        return _kind(inner[0], inner[1:])
    for validator, kind in _BY_VALIDATOR:
        if validator in metadata:
            return kind
    if origin is tuple:
        return f"list of {_kind(inner[0])}s"
    if origin in (Union, UnionType):
        return _kind(inner[0], metadata)
    if issubclass(annotation, StrEnum):
        return " or ".join(f"`{each}`" for each in annotation)
    return _NAMES[annotation]


def _from_spec() -> str:
    rows = "".join(f"| `{setting}` | {origin} |\n" for setting, origin in _FROM_SPEC.items())
    return f"""## In a VectorizerCluster

The operator writes these; all other settings keep their defaults in a pod. `spec.podTemplate.env` refuses
`{ENVIRONMENT_PREFIX}…`, so that no setting gets past the rules.

| setting | from |
|---|---|
{rows}"""
