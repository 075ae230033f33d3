"""Finding the route of a request: a tree of path segments, in which a fixed segment comes before a parameter."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from urllib.parse import unquote_to_bytes

from vectorizer_engine.api.auth import Access
from vectorizer_engine.api.call import Answer, Call
from vectorizer_engine.api.errors import HttpError
from vectorizer_engine.api.search import Search


class Where(Enum):
    """On which thread a handler runs."""

    LOOP = auto()
    """The event loop itself: for what neither waits nor computes."""
    READERS = auto()
    WRITERS = auto()
    SEARCHERS = auto()
    """The event loop for a search that comes alone and will be brief (`api.pace`), else the readers."""
    WAITERS = auto()
    """In a cluster, for what clients ask: it waits for other members, whose requests go to the other threads."""
    WAITING_WRITERS = auto()
    """The same for what they write. Fewer, as decoded vectors take more memory than the bodies that are charged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A call of the API. `pattern` has its parameters in braces and is the route's label in the metrics."""

    method: str
    pattern: str
    handler: Callable[[Call], Answer]
    access: Access
    where: Where
    plan: Callable[[Call], Search] | None = None
    """Of a search alone: what `handler` would answer, before it is looked for."""
    parameters: frozenset[str] = frozenset()
    """The query parameters that do something here; others are refused."""
    makes_collections: bool = False
    """Whether it can create, replace or change a collection, which makes it a door of the cluster rules."""


@dataclass(slots=True)
class _Node:
    fixed: dict[str, _Node] = field(default_factory=dict)
    parameter: tuple[str, _Node] | None = None
    routes: dict[str, Route] = field(default_factory=dict)


class Router:
    def __init__(self, routes: Iterable[Route], *, absent: Iterable[str] = ()) -> None:
        """*absent* are patterns that lead nowhere, though a parameter would take them."""
        self._root = _Node()
        for pattern in absent:
            self._node(pattern)
        for route in routes:
            self._node(route.pattern).routes[route.method] = route

    def _node(self, pattern: str) -> _Node:
        node = self._root
        for segment in pattern.split("/")[1:]:
            if segment.startswith("{"):
                node.parameter = node.parameter or (segment[1:-1], _Node())
                node = node.parameter[1]
            else:
                node = node.fixed.setdefault(segment, _Node())
        return node

    def match(self, method: str, raw_path: bytes) -> tuple[Route, dict[str, str]]:
        """The route of a request and its path's parameters. Raises HttpError 400, 404 or 405."""
        parameters: dict[str, str] = {}
        node = self._root
        segments = raw_path.split(b"/")[1:]
        if len(segments) > 1 and not segments[-1]:
            segments.pop()  # /collections/ is /collections
        for raw in segments:
            try:
                segment = (unquote_to_bytes(raw) if b"%" in raw else raw).decode()
            except UnicodeDecodeError:
                raise HttpError(400, f"the path {raw_path.decode('latin-1')} is not UTF-8") from None
            if (following := node.fixed.get(segment)) is not None:
                node = following
            elif node.parameter is not None and segment:
                name, node = node.parameter
                parameters[name] = segment
            else:
                raise _not_served(method, raw_path)
        if not node.routes:
            raise _not_served(method, raw_path)
        route = node.routes.get(method)
        if route is None:
            allowed = ", ".join(sorted(node.routes))
            raise HttpError(
                405,
                f"{method} {raw_path.decode(errors='replace')}: this engine serves {allowed} on this path",
                ((b"allow", allowed.encode()),),
            )
        return route, parameters


def _not_served(method: str, raw_path: bytes) -> HttpError:
    path = raw_path.decode(errors="replace")
    return HttpError(404, f"{method} {path}: there is no such call, or this engine does not support it")
