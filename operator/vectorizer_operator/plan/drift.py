"""Whether a live object still is what was rendered, without false alarms from what the server adds.

The server fills in defaults, controllers and other managers add fields of their own: those are not ours to judge.
Every value that was rendered, though, has to be there. Fields that an earlier rendering had and this one has not are
told by the rendered hash, not here.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from vectorizer_engine.cluster.quantity import quantity_value
from vectorizer_operator.api.constants import RENDERED_HASH_ANNOTATION
from vectorizer_operator.plan.model import Object

# Lists that the API server merges entry by entry, by this key: entries of other managers may stand beside ours.
_MERGE_KEYS = {
    "containers": ("name",),
    "env": ("name",),
    "imagePullSecrets": ("name",),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "ports": ("name", "containerPort", "port", "protocol"),
    "ownerReferences": ("uid",),
    "volumeClaimTemplates": ("metadata",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
}

_SECRET = re.compile(r"\.env\[[^]]+\]\.value$")


def rendered_hash(live: Object) -> str | None:
    """The hash of what the operator last applied to *live*, or None where it did not."""
    value: str | None = (live["metadata"].get("annotations") or {}).get(RENDERED_HASH_ANNOTATION)
    return value


def may_be_secret(path: str) -> bool:
    """Whether the value at *path* is not for logs, conditions and Events, which more people read than pods."""
    return _SECRET.search(path) is not None


def difference(wanted: Any, live: Any, path: str = "") -> str | None:
    """The first rendered value that *live* does not have, in words, or None."""
    if isinstance(wanted, Mapping):
        return _mapping_difference(wanted, live if isinstance(live, Mapping) else {}, path)
    if isinstance(wanted, list):
        return _list_difference(wanted, live if isinstance(live, list) else [], path)
    if wanted == live or (not wanted and live is None) or _same_quantity(wanted, live):
        return None
    if may_be_secret(path):
        return f"{path} is another one"
    if isinstance(wanted, str) and isinstance(live, str):
        return _text_difference(wanted, live, path)
    return f"{path} is {'unset' if live is None else live}, wanted {wanted}"


def _text_difference(wanted: str, live: str, path: str) -> str:
    """Of a file in a ConfigMap only the first line that differs: the words end up in a condition's message."""
    lines = zip_longest(wanted.splitlines(keepends=True), live.splitlines(keepends=True), fillvalue="")
    number, ours, theirs = next((number, *pair) for number, pair in enumerate(lines, 1) if pair[0] != pair[1])
    line = f", line {number}," if "\n" in wanted else ""
    return f"{path}{line} is {theirs.rstrip() or 'empty'}, wanted {ours.rstrip() or 'empty'}"


def _mapping_difference(wanted: Mapping[str, Any], live: Mapping[str, Any], path: str) -> str | None:
    for key, value in wanted.items():
        if key == RENDERED_HASH_ANNOTATION:
            continue  # compared by itself: it tells a new wish, not drift
        found = difference(value, live.get(key), f"{path}.{key}" if path else key)
        if found is not None:
            return found
    return None


def _list_difference(wanted: Sequence[Any], live: Sequence[Any], path: str) -> str | None:
    keys = _MERGE_KEYS.get(path.rpartition(".")[2], ())
    if not keys and len(wanted) != len(live):
        return f"{path} has {len(live)} entries, wanted {len(wanted)}"
    for index, entry in enumerate(wanted):
        if keys:
            other = next((candidate for candidate in live if _same_entry(entry, candidate, keys)), None)
        else:
            other = live[index]
        found = difference(entry, other, f"{path}[{index}]")
        if found is not None:
            return found
    return None


def _same_entry(wanted: Mapping[str, Any], live: Mapping[str, Any], keys: tuple[str, ...]) -> bool:
    return all(
        wanted[key]["name"] == live[key].get("name") if key == "metadata" else wanted[key] == live.get(key)
        for key in keys
        if key in wanted
    )


def _same_quantity(wanted: Any, live: Any) -> bool:
    """The server may write a quantity in another way: 1000m as 1, 0.5 as 500m."""
    left, right = quantity_value(wanted), quantity_value(live)
    return left is not None and left == right
