"""Objects in YAML and JSON files, folders and standard input, as kubectl users expect, each with its line.

Every document is read even if another one is malformed. A `List` counts as its items. Nothing is said here about what
the objects mean.
"""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

STDIN = "-"
_EXTENSIONS = (".yaml", ".yml", ".json")
_TIMESTAMP = "tag:yaml.org,2002:timestamp"


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Input that is no object: where (line and column count from 1; None for a whole file), and why."""

    source: str
    line: int | None
    column: int | None
    message: str


@dataclass(frozen=True, slots=True)
class Document:
    """An object, as written. `duplicates` are the paths of keys that occur twice: only the last one counts."""

    source: str
    raw: dict[str, Any]
    node: yaml.Node
    duplicates: tuple[tuple[str, int], ...] = ()

    @property
    def line(self) -> int:
        return _line(self.node)

    def line_of(self, path: str) -> int:
        """The line of the field at *path* (`spec.env[0].name`), or of the nearest field around it."""
        node, key = self.node, self.node
        for part in path.replace("[", ".[").split("."):
            if isinstance(node, yaml.SequenceNode) and part.startswith("["):
                node = key = node.value[int(part[1:-1])]
                continue
            found = [pair for pair in getattr(node, "value", ()) if _is_pair(pair) and pair[0].value == part]
            if not found:
                break
            key, node = found[-1]
        return _line(key)


class _Loader(yaml.SafeLoader):
    """YAML as Kubernetes reads it: dates are texts."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML's own name, read from the class)
        first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def read(names: Iterable[str]) -> Iterator[Document | Unreadable]:
    """Every object in the files, folders (their .yaml, .yml and .json files) and standard input ("-")."""
    for name in names:
        if name == STDIN:
            yield from _objects("<stdin>", sys.stdin.buffer.read())
            continue
        path = Path(name)
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.suffix in _EXTENSIONS and file.is_file())
            if not files:
                yield Unreadable(name, None, None, f"holds no file that ends in {', '.join(_EXTENSIONS)}")
        else:
            files = [path]
        for file in files:
            try:
                content = file.read_bytes()
            except OSError as error:
                yield Unreadable(str(file), None, None, f"cannot be read: {error.strerror}")
            else:
                yield from _objects(str(file), content)


def _objects(source: str, content: bytes) -> Iterator[Document | Unreadable]:
    empty = True
    try:
        loader = _Loader(content)
        while loader.check_node():
            node = loader.get_node()
            if node is None or (isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"):
                continue  # nothing between two `---`
            empty = False
            yield from _document(source, node, loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (None, None)
        yield Unreadable(source, line, column, f"not YAML: {error.problem or error.context}")
        return
    except (yaml.reader.ReaderError, UnicodeDecodeError) as error:
        yield Unreadable(source, None, None, f"not text: {error.reason}")
        return
    if empty:
        yield Unreadable(source, None, None, "is empty: it holds no object")


def _document(source: str, node: yaml.Node, loader: _Loader) -> Iterator[Document | Unreadable]:
    raw = loader.construct_document(node)
    if not isinstance(raw, dict):
        column = node.start_mark.column + 1
        yield Unreadable(source, _line(node), column, f"expected an object, found a {type(raw).__name__}")
    elif str(raw.get("kind", "")).endswith("List") and isinstance(raw.get("items"), list):
        items = next(value for key, value in node.value if key.value == "items")
        for item in items.value:
            yield from _document(source, item, loader)
    else:
        yield Document(source, raw, node, tuple(_duplicates(node, "")))


def _duplicates(node: yaml.Node, path: str) -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _duplicates(item, f"{path}[{index}]")
    elif isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            here = f"{path}.{key.value}" if path else str(key.value)
            if key.value in seen:
                yield here, _line(key)
            seen.add(key.value)
            yield from _duplicates(value, here)


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2


def _line(node: yaml.Node) -> int:
    line: int = node.start_mark.line + 1
    return line
