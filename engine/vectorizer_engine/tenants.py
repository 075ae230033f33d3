"""The tenants of one engine, as they are configured: names, keys and quotas, and what must hold between them.

Whose key came with a request is the affair of `api.auth`, whose collections are whose that of `collection.store`, and
whose memory is taken when it runs short that of `cache.memory_manager`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, model_validator

from vectorizer_engine.config_types import Bytes, KeyInFile, Section

NO_TENANT = ""
"""Stands for whoever runs the engine: what belongs to no tenant is theirs, and everything where there are none."""

TENANT_NAME_PATTERN = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
"""A DNS label: it is a part of the names of folders and a label of the metrics."""

MAX_TENANT_NAME_LENGTH = 63

MAX_TENANTS = 64
"""Each is a series of the metrics."""


class TenantConfig(Section):
    name: str = Field(
        pattern=TENANT_NAME_PATTERN,
        max_length=MAX_TENANT_NAME_LENGTH,
        description="Name of the tenant. What it stored stays with this name.",
    )
    api_key_file: KeyInFile = Field(
        description="File with the key that allows everything in its collections."
    )
    read_only_api_key_file: KeyInFile | None = Field(
        None, description="File with the key that allows reading its collections."
    )
    memory_quota_bytes: Bytes | None = Field(
        None, gt=0, description="Cache memory that it may hold at most. Unset: its share of the limit."
    )


class TenantsConfig(Section):
    enabled: bool = Field(
        False,
        strict=True,
        description="Give each tenant collections of its own, which only its keys reach. Needs auth.api_key.",
    )
    keys_folder: Path = Field(Path(), description="Folder in which relative paths of key files begin.")
    members: tuple[TenantConfig, ...] = Field(
        (),
        max_length=MAX_TENANTS,
        description="The tenants, each with name, api_key_file, read_only_api_key_file (optional) and "
        "memory_quota_bytes (optional), as in [{name: acme, api_key_file: /keys/acme, memory_quota_bytes: 128Mi}].",
    )

    @model_validator(mode="before")
    @classmethod
    def _find_key_files(cls, raw: Any) -> Any:
        """*raw* with the paths of key files from `keys_folder` on; what is misshapen is for the fields to refuse."""
        if not isinstance(raw, Mapping) or not isinstance(raw.get("members"), list | tuple):
            return raw
        folder = Path(str(raw.get("keys_folder", ".")))

        def found(member: Any) -> Any:
            if not isinstance(member, Mapping):
                return member
            return {
                key: str(folder / value) if str(key).endswith("_file") and isinstance(value, str) else value
                for key, value in member.items()
            }

        return {**raw, "members": [found(member) for member in raw["members"]]}


def tenant_problems(tenants: TenantsConfig, auth: Section, *, limit: int) -> Iterator[str]:
    """What is wrong between the tenants, the keys in *auth*, and the *limit* over all caches in bytes."""
    if tenants.enabled and not tenants.members:
        yield "tenants.members: names no tenant, and tenants.enabled is true: add one, or set enabled to false"
    keys = {key: f"auth.{name}" for name, key in auth if key is not None}
    if tenants.enabled and "auth.api_key" not in keys.values():
        yield "auth.api_key: is not set, and tenants.enabled is true: set it, or any request without a key is allowed"
    names: dict[str, str] = {}
    for index, tenant in enumerate(tenants.members):
        path = f"tenants.members.{index}"
        if tenant.name in names:
            yield f"{path}.name: {tenant.name!r} is the name of {names[tenant.name]} too: give each its own"
        names.setdefault(tenant.name, path)
        if tenant.memory_quota_bytes is not None and tenant.memory_quota_bytes > limit:
            yield (
                f"{path}.memory_quota_bytes: {tenant.memory_quota_bytes} bytes are more than the {limit} of "
                "cluster.max_cache_memory_bytes, which all tenants share: lower it or leave it out"
            )
        for name, key in tenant:
            if not isinstance(key, SecretStr):
                continue
            if key in keys:
                yield f"{path}.{name}: holds the same key as {keys[key]}: a key says who asks, use another"
            keys.setdefault(key, f"{path}.{name}")
