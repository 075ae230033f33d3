"""Paths into payloads, as Qdrant writes them: `city`, `address.city`, `tags[]`, `parts[0].name`, `"odd.key"`.

Reading what a path selects, and keeping or dropping what paths select. Changing payloads is not done here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from vectorizer_engine.errors import InvalidRequest

Step = str | int | None
"""A key of an object, an index of an array, or None for every element of an array."""

_KEY = re.compile(r'"(?P<quoted>[^"]+)"|(?P<plain>[\w-]+)')
_BRACKETS = re.compile(r"\[(?P<index>\d*)\]", re.ASCII)

Projection = Callable[[Mapping[str, Any]], dict[str, Any]]
"""The part of a payload that the client asked for."""


def parse_path(path: str) -> tuple[Step, ...]:
    """The steps of *path*. Raises InvalidRequest where it is none."""
    steps: list[Step] = []
    position = 0
    while key := _KEY.match(path, position):
        steps.append(key["quoted"] or key["plain"])
        position = key.end()
        while brackets := _BRACKETS.match(path, position):
            steps.append(int(brackets["index"]) if brackets["index"] else None)
            position = brackets.end()
        if position == len(path):
            return tuple(steps)
        if path[position] != ".":
            break
        position += 1
    raise InvalidRequest(
        f'{path!r} is not a payload path: write key, key.inner, list[], list[0].key, or "a key" in double quotes'
    )


def values_at(payload: Mapping[str, Any], steps: tuple[Step, ...]) -> list[Any]:
    """Everything that the path selects in *payload*; an array that it ends at is one value."""
    values: list[Any] = [payload]
    for step in steps:
        if step is None:
            values = [element for value in values if isinstance(value, list) for element in value]
        elif isinstance(step, int):
            values = [value[step] for value in values if isinstance(value, list) and step < len(value)]
        else:
            values = [value[step] for value in values if isinstance(value, Mapping) and step in value]
    return values


_Tree = dict[Step, Any]
"""Paths merged by their first steps. A leaf is None: everything below it is selected."""


def including(paths: Iterable[str]) -> Projection:
    """A function that keeps of a payload what *paths* select."""
    tree = _tree(paths)
    return lambda payload: {key: _kept(payload[key], tree[key]) for key in payload if key in tree}


def excluding(paths: Iterable[str]) -> Projection:
    """A function that drops of a payload what *paths* select."""
    tree = _tree(paths)
    return lambda payload: dict(_without(payload, tree))


def _tree(paths: Iterable[str]) -> _Tree:
    root: _Tree = {}
    for path in paths:
        *parents, last = parse_path(path)
        node = root
        for step in parents:
            inner = node.setdefault(step, {})
            if inner is None:  # a shorter path already selects all of this
                break
            node = inner
        else:
            node[last] = None
    return root


def _kept(value: Any, tree: _Tree | None) -> Any:
    if tree is None:
        return value
    if isinstance(value, Mapping):
        return {key: _kept(value[key], tree[key]) for key in value if key in tree}
    if isinstance(value, list):
        return [_kept(element, tree[None]) for element in value] if None in tree else []
    return value


def _without(value: Any, tree: _Tree) -> Any:
    if isinstance(value, Mapping):
        return {
            key: inner if key not in tree else _without(inner, tree[key])
            for key, inner in value.items()
            if key not in tree or tree[key] is not None
        }
    if isinstance(value, list) and None in tree:
        return [] if tree[None] is None else [_without(element, tree[None]) for element in value]
    return value
