"""What a check is: said twice, for Python and in CEL. The checks themselves are in `checks`."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple


def _itself(value: Any) -> Any:
    return value


class Check(NamedTuple):
    """`cel` and `holds` say the same about the value at `path`; `expected` completes "PATH: …".

    `culprit` is what of a value that does not hold is shown.
    """

    path: tuple[str, ...]
    cel: str
    holds: Callable[[Any], bool]
    expected: str
    culprit: Callable[[Any], Any] = _itself


class Transition(NamedTuple):
    """What an update must keep, in CEL with `oldSelf`."""

    path: tuple[str, ...]
    cel: str
    expected: str


def cel_list(values: Iterable[str]) -> str:
    """*values*, in which nothing needs to be escaped, as a list in CEL."""
    return "[" + ", ".join(f"'{value}'" for value in values) + "]"
