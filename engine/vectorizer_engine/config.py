"""The engine's configuration: `config.yml`, overridden by the environment.

Models, defaults and loading. Whether a configuration keeps the cluster rules is `cluster.validator`'s affair;
what each setting does is told by its description, from which the documents are made.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, SecretStr, ValidationError

from vectorizer_engine.cluster.validator import MAX_CACHE_MEMORY_BYTES
from vectorizer_engine.config_types import Bytes, Section
from vectorizer_engine.tenants import TenantConfig, TenantsConfig, tenant_problems

ENVIRONMENT_PREFIX = "VECTORIZER__"
"""`VECTORIZER__CLUSTER__MAX_CACHE_MEMORY_BYTES=268435456` overrides `cluster.max_cache_memory_bytes`."""


class ConfigError(Exception):
    """The configuration cannot be used. `problems` names each place, what it holds and what was expected."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class UnreadableConfig(ConfigError):
    """The file itself cannot be used: it is missing, unreadable, no YAML or no mapping."""


class ServerConfig(Section):
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(6333, strict=True, ge=1, le=65535, description="Port of the REST API.")
    max_request_bytes: Bytes = Field(
        32 * 1024**2,
        ge=1024,
        description="Largest body of one request; a larger one is refused with 413 (Qdrant's default).",
    )
    request_memory_bytes: Bytes = Field(
        64 * 1024**2,
        ge=1024**2,
        description="What requests in flight may hold: three quarters for bodies and for making answers, for which a "
        "request waits, then gets 429; the rest for what writes make of their vectors. Where several pods serve, as "
        "much again is for what they ask of each other.",
    )


class StorageType(StrEnum):
    """Where the vectors of sealed segments are while they are searched. Their files are the same for both."""

    MMAP = "mmap"
    MEMORY = "memory"


class ObjectStoreConfig(Section):
    url: str | None = Field(
        None,
        pattern=r"^(s3|gs|az)://[^/]+|^file:///",
        description="Where collections live: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, or "
        "file:///FOLDER. storage.path then holds copies only. Unset: collections live in storage.path. Credentials "
        "come from the environment as the cloud's own tools take them (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, …).",
    )
    endpoint: str | None = Field(
        None,
        pattern=r"^https?://",
        description="Address of a store that is not the cloud's own, such as http://minio:9000.",
    )
    region: str | None = Field(None, min_length=1, description="Region of an S3 bucket. Unset: us-east-1.")
    max_copies_bytes: Bytes | None = Field(
        None,
        gt=0,
        description="How much storage.path may hold of a cluster's object store. Beyond it, shards that nobody has "
        "asked for longest are parked: closed, removed from the volume, and fetched again by the next request. Leave a "
        "quarter of the volume free. Needs cluster.pod_name. Unset: three quarters of the volume.",
    )


class StorageConfig(Section):
    path: Path = Field(Path("./storage"), description="Folder of the data. One process at a time may use it.")
    type: StorageType = Field(
        StorageType.MMAP,
        description="Where the vectors of a new collection are that does not say it itself (vectors.on_disk): in "
        "memory-mapped files (mmap), or on the heap, outside of the cache limit (memory). A cluster needs mmap.",
    )
    object_store: ObjectStoreConfig = Field(
        default_factory=ObjectStoreConfig,
        description="A store that outlives the pod and its volume (docs/specs/SHARED_STORE.md).",
    )


class ClusterConfig(Section):
    enabled: bool = Field(
        False, strict=True, description="Cluster mode: the cluster rules hold at start and at run time."
    )
    max_cache_memory_bytes: Bytes = Field(
        MAX_CACHE_MEMORY_BYTES,
        gt=0,
        description="The one limit over every cache. In cluster mode at most 1 GiB. SIGHUP changes it live.",
    )
    enforce_mmap_storage: bool = Field(
        True, strict=True, description="Refuse memory storage in cluster mode. A cluster needs it true."
    )
    disable_file_watcher: bool = Field(
        True,
        strict=True,
        description="Never start the file watcher in cluster mode. A cluster needs it true.",
    )
    pod_name: str | None = Field(
        None,
        min_length=1,
        max_length=253,
        description="Name of this engine among those that serve one object store together (docs/specs/CLUSTER.md). "
        "It stays the same for ever. Unset: this engine is the only one.",
    )
    internal_key: SecretStr | None = Field(
        None,
        min_length=16,
        description="Key that the engines of a cluster show each other. Needs cluster.pod_name.",
    )
    cache_warning_threshold: int = Field(
        80,
        strict=True,
        ge=1,
        le=100,
        description="Percent of the limit from which usage is logged as a warning. SIGHUP changes it live.",
    )


class CacheConfig(Section):
    query_results: bool = Field(
        True,
        strict=True,
        description="Keep answers of searches until something is written. Turn it off to measure searches.",
    )


class FileWatcherConfig(Section):
    enabled: bool = Field(
        False,
        strict=True,
        description="Load points from files that appear or change in the folders of paths. Not for a cluster.",
    )
    paths: tuple[Path, ...] = Field(
        (),
        description="Folders to watch. PATH/NAME/*.jsonl, *.npy and *.parquet go into collection NAME, which has to "
        "exist; docs/specs/FILE_WATCHER.md tells what the files hold.",
    )


class AuthConfig(Section):
    api_key: SecretStr | None = Field(
        None, min_length=1, description="Key that allows everything. Unset: no key is asked."
    )
    read_only_api_key: SecretStr | None = Field(
        None, min_length=1, description="Key that allows reading only."
    )


class Config(Section):
    """Everything that `config.yml` may hold."""

    server: ServerConfig = Field(default_factory=ServerConfig)
    storage: StorageConfig = Field(default_factory=StorageConfig)
    cluster: ClusterConfig = Field(default_factory=ClusterConfig)
    cache: CacheConfig = Field(default_factory=CacheConfig)
    file_watcher: FileWatcherConfig = Field(default_factory=FileWatcherConfig)
    auth: AuthConfig = Field(default_factory=AuthConfig)
    tenants: TenantsConfig = Field(default_factory=TenantsConfig)

    @property
    def active_tenants(self) -> tuple[TenantConfig, ...]:
        """The tenants that are served: none where they are not enabled."""
        return self.tenants.members if self.tenants.enabled else ()

    def differences(self, other: Config) -> list[str]:
        """The paths of the settings that have another value in *other*, secrets included."""
        return [
            f"{section}.{key}"
            for section, fields in self
            for key, value in fields
            if value != getattr(getattr(other, section), key)
        ]

    def settings(self) -> Iterator[tuple[str, Any]]:
        """Every setting as (path, value), secrets masked: what is logged at start."""
        for section, fields in self.model_dump(mode="json").items():
            for key, value in fields.items():
                yield f"{section}.{key}", value


def read_config(path: Path | None, environ: Mapping[str, str]) -> dict[str, Any]:
    """The configuration as written: the file's mapping, if a file is given, under the environment's overrides.

    Raises UnreadableConfig for a file that is missing, unreadable, no YAML or no mapping, and ConfigError for an
    environment variable that names no setting.
    """
    raw = _read_file(path) if path is not None else {}
    problems = []
    for name in sorted(environ):
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        keys = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        field = _field(keys)
        if field is None:
            problems.append(f"{name}: no such setting{_suggestion('.'.join(keys), _paths())}")
            continue
        fields: Any = raw
        for key in keys[:-1]:
            fields = fields.setdefault(key, {}) if isinstance(fields, dict) else None
        if isinstance(fields, dict):
            fields[keys[-1]] = environ[name] if field in _TEXTS else _scalar(environ[name])
    if problems:
        raise ConfigError(problems)
    return raw


def parse_config(raw: Mapping[str, Any]) -> Config:
    """The configuration that *raw* stands for. Raises ConfigError with every problem found."""
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        raise ConfigError([_problem(details) for details in error.errors()]) from None
    problems = [
        *_watcher_problems(config),
        *_member_problems(config),
        *_auth_problems(config.auth),
        *tenant_problems(config.tenants, config.auth, limit=config.cluster.max_cache_memory_bytes),
    ]
    if problems:
        raise ConfigError(problems)
    return config


def _watcher_problems(config: Config) -> Iterator[str]:
    # In cluster mode the rules say what to do about a watcher: not to give it a folder.
    if config.file_watcher.enabled and not config.file_watcher.paths and not config.cluster.enabled:
        yield (
            "file_watcher.paths: names no folder, and file_watcher.enabled is true: list the folders to watch, "
            "or set file_watcher.enabled to false"
        )


def _member_problems(config: Config) -> Iterator[str]:
    """What is missing to be one of several engines."""
    cluster = config.cluster
    if cluster.pod_name is None:
        if config.storage.object_store.max_copies_bytes is not None:
            yield (
                "storage.object_store.max_copies_bytes: is set, and cluster.pod_name is not: an engine alone keeps all "
                "that it serves; leave it out, or set cluster.pod_name"
            )
        if cluster.internal_key is not None:
            yield "cluster.pod_name: is not set, and cluster.internal_key is: set both, or leave both out"
        return
    if cluster.internal_key is None:
        yield "cluster.internal_key: is not set, and cluster.pod_name is: set it to the same key in all engines"
    if not cluster.enabled:
        yield "cluster.enabled: is false, and cluster.pod_name is set: set it to true, or leave cluster.pod_name out"
    if config.storage.object_store.url is None:
        yield (
            "storage.object_store.url: is not set, and cluster.pod_name is: engines serve one cluster only over a "
            "store that they share; set it, or leave cluster.pod_name out"
        )


def _auth_problems(auth: AuthConfig) -> Iterator[str]:
    if auth.api_key is not None and auth.api_key == auth.read_only_api_key:
        yield "auth.read_only_api_key: is the same key as auth.api_key, which allows everything: use another"


def _read_file(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UnreadableConfig([f"{path}: cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError as error:
        raise UnreadableConfig([f"{path}: not UTF-8 text: {error.reason} at byte {error.start}"]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        raise UnreadableConfig([f"{place}: not YAML: {problem}"]) from None
    except yaml.YAMLError as error:
        raise UnreadableConfig([f"{path}: not YAML: {error}"]) from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise UnreadableConfig([f"{path}: expected a mapping of sections, found a {type(raw).__name__}"])
    return {key: {} if fields is None else fields for key, fields in raw.items()}


def _scalar(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


_TEXTS = (str, Path, str | None, SecretStr | None)
"""Settings that are taken from the environment as they are written there."""


def _field(keys: list[str]) -> Any:
    """The annotation of the setting at section.key, or None where there is none."""
    annotation: Any = Config
    for key in keys:
        if not is_section(annotation) or key not in annotation.model_fields:
            return None
        annotation = annotation.model_fields[key].annotation
    return None if is_section(annotation) else annotation


def is_section(annotation: Any) -> bool:
    """Whether a setting of this type has settings of its own."""
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _paths(section: Any = Config, prefix: str = "") -> list[str]:
    paths = []
    for name, field in section.model_fields.items():
        paths.append(prefix + name)
        if is_section(field.annotation):
            paths += _paths(field.annotation, f"{prefix}{name}.")
    return paths


def _suggestion(path: str, known: list[str]) -> str:
    close = difflib.get_close_matches(path, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _problem(details: Any) -> str:
    path = ".".join(str(part) for part in details["loc"])
    if details["type"] == "extra_forbidden":
        known = _paths()
        if path.startswith("tenants.members."):
            parent = path.rpartition(".")[0]
            known = [f"{parent}.{name}" for name in TenantConfig.model_fields]
        return f"{path}: no such setting{_suggestion(path, known)}"
    if details["type"] == "missing":
        return f"{path}: is not set"
    if path.partition(".")[0] == "auth":
        return f"{path}: {details['msg']}"  # what was found may be a secret
    return f"{path}: {details['msg']}, found {details['input']!r}"
