"""Objects in YAML and JSON files, folders and standard input, as kubectl users expect, each with its line.

Every document is read even if another one is malformed. A `List` counts as its items. Nothing is said here about what
the objects mean.
"""

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

STDIN = "-"
_EXTENSIONS = (".yaml", ".yml", ".json")
_INT, _TIMESTAMP = "tag:yaml.org,2002:int", "tag:yaml.org,2002:timestamp"

DEEPEST = 100
"""Levels of one object. Pods have a dozen; an alias within its own anchor has no end."""

MOST_VALUES = 200_000
"""In one object, each alias counted as what it stands for. The API server takes 1.5 MiB."""


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
    """YAML as Kubernetes reads it: dates and times of day (12:30) are texts."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML's own name, read from the class)
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_INT, _TIMESTAMP)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(
    _INT,
    re.compile(r"[-+]?(?:0b[01_]*[01]|0x[0-9a-fA-F_]*[0-9a-fA-F]|0[0-7_]*|[1-9][0-9_]*)$"),
    list("-+0123456789"),
)


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
            yield from _documents(source, node, loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (None, None)
        yield Unreadable(source, line, column, f"not YAML: {error.problem or error.context}")
        return
    except yaml.reader.ReaderError as error:
        # The position is one in the text if there is any, else in the bytes.
        part = content.decode(errors="replace") if error.encoding == "unicode" else content.decode("latin-1")
        line = part.count("\n", 0, error.position) + 1
        yield Unreadable(source, line, None, f"not text: {error.reason}")
        return
    except RecursionError:
        yield Unreadable(source, loader.line + 1, None, "not YAML: nested too deeply")
        return
    if empty:
        yield Unreadable(source, None, None, "is empty: it holds no object")


def _documents(source: str, node: yaml.Node, loader: _Loader) -> Iterator[Document | Unreadable]:
    # All keys are looked at before the first object is made, which writes what `<<` merges into the nodes.
    found = [(part, tuple(_duplicates(part))) for part in _parts(node)]
    for part, duplicates in found:
        place = source, _line(part), part.start_mark.column + 1
        try:
            raw = loader.construct_document(part)
        except ValueError:  # PyYAML asks Python for any number of digits
            digits = sys.get_int_max_str_digits()
            yield Unreadable(*place, f"an object with a whole number of more than {digits} digits")
            continue
        if isinstance(raw, dict):
            yield Document(source, raw, part, duplicates)
        else:
            yield Unreadable(*place, f"expected an object, found {_KINDS.get(type(raw), 'a number')}")


_KINDS = {list: "a list", str: "a text", bool: "true or false", type(None): "nothing"}


def _parts(node: yaml.Node) -> Iterator[yaml.Node]:
    """The items of a `List`, or *node* itself."""
    fields = {key.value: value for key, value in node.value} if isinstance(node, yaml.MappingNode) else {}
    kind, items = fields.get("kind"), fields.get("items")
    if (
        isinstance(kind, yaml.ScalarNode)
        and kind.value.endswith("List")
        and isinstance(items, yaml.SequenceNode)
    ):
        for item in items.value:
            yield from _parts(item)
    else:
        yield node


def _duplicates(root: yaml.Node) -> Iterator[tuple[str, int]]:
    """The keys that occur twice. Raises MarkedYAMLError for an object that is too deep or too large to be one."""
    left, visited = [(root, "", 0)], 0
    while left:
        node, path, depth = left.pop()
        visited += 1
        if depth > DEEPEST or visited > MOST_VALUES:
            limit = f"{DEEPEST} levels" if depth > DEEPEST else f"{MOST_VALUES} values, aliases written out"
            raise yaml.MarkedYAMLError(
                problem=f"an object of more than {limit}", problem_mark=root.start_mark
            )
        if isinstance(node, yaml.SequenceNode):
            left += [(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(node.value)]
        elif isinstance(node, yaml.MappingNode):
            seen = set()
            for key, value in node.value:
                name = key.value if isinstance(key, yaml.ScalarNode) else "?"
                here = f"{path}.{name}" if path else name
                if name in seen:
                    yield here, _line(key)
                seen.add(name)
                left.append((value, here, depth + 1))


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2


def _line(node: yaml.Node) -> int:
    line: int = node.start_mark.line + 1
    return line
