"""What a well-formed VectorizerCluster must keep beside the cluster rules: that it can become Kubernetes objects.

Each check is said twice, for Python and in CEL, so that `vectorizerctl validate` and the API server agree. What only a
change can break (a shrinking volume) is said in CEL here, and as a predicate in `plan`.
"""

from collections.abc import Mapping
from typing import Any

from vectorizer_engine.cluster.quantity import parse_quantity
from vectorizer_engine.config import ENVIRONMENT_PREFIX
from vectorizer_operator.api import object_store
from vectorizer_operator.api.check import Check, Transition, cel_list
from vectorizer_operator.api.constants import GROUP, MAX_NAME_LENGTH, NAME_PATTERN

RESERVED_VOLUMES = ("config", "data", "tenants", "tmp")
RESERVED_MOUNTS = ("/etc/vectorizer", "/etc/vectorizer-tenants", "/var/lib/vectorizer", "/tmp")
_NOT_IN_PATHS = ("//", "/./", "/../")  # other spellings of a path would get around the reserved ones
_OWN_PREFIXES = (f"{GROUP}/", "app.kubernetes.io/")


def _is_size(value: Any) -> bool:
    size = parse_quantity(value)
    return size is not None and size > 0


def _are_amounts(value: Mapping[str, Any]) -> bool:
    return all(
        (parse_quantity(amount) or 0) >= 0 and parse_quantity(amount) is not None for amount in value.values()
    )


def _has_no_own_keys(value: Mapping[str, Any]) -> bool:
    return not any(key.startswith(_OWN_PREFIXES) for key in value)


def _may_be_mounted(path: str) -> bool:
    reserved = tuple(f"{mount}/" for mount in RESERVED_MOUNTS)
    return not path.startswith(reserved) and not any(part in path for part in _NOT_IN_PATHS)


_IS_SIZE = "type(self) == int ? self > 0 : isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))"
_ARE_AMOUNTS = (
    "self.all(key, isQuantity(string(self[key])) && !quantity(string(self[key])).isLessThan(quantity('0')))"
)
_HAS_NO_OWN_KEYS = (
    "self.all(key, " + " && ".join(f"!key.startsWith('{prefix}')" for prefix in _OWN_PREFIXES) + ")"
)
_TEMPLATE = ("spec", "podTemplate")


def _tenants(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return spec.get("tenants") or []


def _names(tenants: list[Mapping[str, Any]]) -> str:
    return ", ".join(str(tenant["name"]) for tenant in tenants)


def _without_engine_key(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [] if (spec.get("auth") or {}).get("apiKeySecretRef") else _tenants(spec)


def _with_wrong_quota(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    limit = parse_quantity((spec.get("cluster") or {}).get("maxCacheMemory", "1Gi"))

    def is_wrong(quota: str) -> bool:
        size = parse_quantity(quota)
        return size is None or size <= 0 or (limit is not None and size > limit)

    return [
        tenant for tenant in _tenants(spec) if "memoryQuota" in tenant and is_wrong(tenant["memoryQuota"])
    ]


def _key_places(spec: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Secret and key of every API key."""
    holders = [spec.get("auth") or {}, *_tenants(spec)]
    references = [holder.get(field) for holder in holders for field in (_FULL, _READ_ONLY)]
    return [(reference["name"], reference.get("key", "api-key")) for reference in references if reference]


def _shared_key_places(spec: Mapping[str, Any]) -> list[str]:
    places = _key_places(spec)
    return sorted({f"{name}/{key}" for name, key in places if places.count((name, key)) > 1})


def _same(one: str, other: str) -> str:
    return f"({one}.name == {other}.name && {one}.key == {other}.key)"


_FULL, _READ_ONLY = "apiKeySecretRef", "readOnlyApiKeySecretRef"
_AUTH, _AUTH_READS = f"self.auth.{_FULL}", f"self.auth.{_READ_ONLY}"


def _is_not_of(tenant: str, key: str) -> str:
    """That *key* of spec.auth, if it is there, is none of *tenant*'s."""
    return (
        f"(!has(self.auth) || !has({key}) || (!{_same(key, f'{tenant}.{_FULL}')} && "
        f"(!has({tenant}.{_READ_ONLY}) || !{_same(key, f'{tenant}.{_READ_ONLY}')})))"
    )


_KEYS_ARE_APART = (
    f"(!has(self.auth) || !has({_AUTH}) || !has({_AUTH_READS}) || !{_same(_AUTH, _AUTH_READS)}) && "
    "(!has(self.tenants) || self.tenants.all(one, "
    f"self.tenants.exists_one(other, {_same(f'other.{_FULL}', f'one.{_FULL}')}) && "
    f"!self.tenants.exists(other, has(other.{_READ_ONLY}) && {_same(f'other.{_READ_ONLY}', f'one.{_FULL}')}) && "
    f"(!has(one.{_READ_ONLY}) || self.tenants.exists_one(other, "
    f"has(other.{_READ_ONLY}) && {_same(f'other.{_READ_ONLY}', f'one.{_READ_ONLY}')})) && "
    f"{_is_not_of('one', _AUTH)} && {_is_not_of('one', _AUTH_READS)}))"
)

_KEY_CHECKS = (
    Check(
        ("spec", "auth"),
        f"!has(self.{_READ_ONLY}) || has(self.{_FULL})",
        lambda auth: not auth.get(_READ_ONLY) or bool(auth.get(_FULL)),
        f"{_READ_ONLY} needs {_FULL}, or nobody could write: set both",
        lambda _: f"{_READ_ONLY} alone",
    ),
    Check(
        ("spec",),
        "!has(self.tenants) || self.tenants.size() == 0 || (has(self.auth) && has(self.auth.apiKeySecretRef))",
        lambda spec: not _without_engine_key(spec),
        "tenants need spec.auth.apiKeySecretRef, or who sends no key could do everything: set it",
        lambda spec: f"tenants {_names(_without_engine_key(spec))} without it",
    ),
    Check(
        ("spec",),
        # A list of one makes a name for the limit: converting it for every tenant would cost more than is allowed.
        "!has(self.tenants) || !isQuantity(string(self.cluster.maxCacheMemory)) || "
        "[quantity(string(self.cluster.maxCacheMemory))].all(limit, self.tenants.all(tenant, "
        "!has(tenant.memoryQuota) || (isQuantity(tenant.memoryQuota) && "
        "quantity(tenant.memoryQuota).isGreaterThan(quantity('0')) && "
        "!quantity(tenant.memoryQuota).isGreaterThan(limit))))",
        lambda spec: not _with_wrong_quota(spec),
        "tenants[].memoryQuota has to be a size above 0 and up to spec.cluster.maxCacheMemory, which all tenants share",
        lambda spec: ", ".join(
            f"{each['memoryQuota']} for {each['name']}" for each in _with_wrong_quota(spec)
        ),
    ),
    Check(
        ("spec",),
        _KEYS_ARE_APART,
        lambda spec: not _shared_key_places(spec),
        "a key tells who asks: every reference of spec.auth and spec.tenants needs a Secret's key of its own",
        lambda spec: f"{', '.join(_shared_key_places(spec))} more than once",
    ),
)

CHECKS = (
    *_KEY_CHECKS,
    *object_store.CHECKS,
    Check(
        ("spec", "storage", "size"),
        _IS_SIZE,
        _is_size,
        "expected a size above 0, such as 10Gi",
    ),
    *(
        Check(
            ("spec", "resources", kind),
            _ARE_AMOUNTS,
            _are_amounts,
            "expected quantities of 0 or more, such as cpu: 500m and memory: 2Gi",
        )
        for kind in ("requests", "limits")
    ),
    *(
        Check(
            (*_TEMPLATE, kind),
            _HAS_NO_OWN_KEYS,
            _has_no_own_keys,
            f"keys under {' and '.join(_OWN_PREFIXES)} are the operator's: remove them",
        )
        for kind in ("labels", "annotations")
    ),
    Check(
        (*_TEMPLATE, "env"),
        f"self.all(variable, !variable.name.startsWith('{ENVIRONMENT_PREFIX}'))",
        lambda value: not any(str(variable.get("name")).startswith(ENVIRONMENT_PREFIX) for variable in value),
        f"{ENVIRONMENT_PREFIX}… would pass by the cluster rules: use the fields of spec instead",
    ),
    Check(
        (*_TEMPLATE, "volumes"),
        f"self.all(volume, !(volume.name in {cel_list(RESERVED_VOLUMES)}))",
        lambda value: not any(volume.get("name") in RESERVED_VOLUMES for volume in value),
        f"{', '.join(RESERVED_VOLUMES)} are the operator's own volumes: choose other names",
    ),
    Check(
        (*_TEMPLATE, "volumeMounts"),
        "self.all(mount, "
        + " && ".join(f"!(mount.mountPath + '/').contains('{part}')" for part in _NOT_IN_PATHS)
        + "".join(f" && !(mount.mountPath + '/').startsWith('{path}/')" for path in RESERVED_MOUNTS)
        + ")",
        lambda value: all(_may_be_mounted(f"{mount.get('mountPath')}/") for mount in value),
        f"expected plain paths outside of the operator's own mounts: {', '.join(RESERVED_MOUNTS)}",
    ),
)

NAME_CEL = f"self.metadata.name.matches('{NAME_PATTERN}') && self.metadata.name.size() <= {MAX_NAME_LENGTH}"
NAME_EXPECTED = (
    "it becomes the name of pods and Services: expected lower-case letters, digits and '-', a letter first, "
    f"at most {MAX_NAME_LENGTH} characters"
)

TRANSITIONS = (
    Transition(
        ("spec", "storage", "size"),
        "!isQuantity(string(self)) || !isQuantity(string(oldSelf)) || "
        "!quantity(string(self)).isLessThan(quantity(string(oldSelf)))",
        "volumes cannot shrink: set spec.storage.size to what it was or more",
    ),
    Transition(
        ("spec", "storage"),
        "has(self.storageClassName) == has(oldSelf.storageClassName) && "
        "(!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)",
        "spec.storage.storageClassName cannot change, as the volumes stay where they were made: "
        "set it to what it was, or make a new cluster",
    ),
    object_store.URL_STAYS,
)
