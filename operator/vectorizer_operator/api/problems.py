"""What is wrong with the shape of a VectorizerCluster: unknown fields, wrong types, values out of range.

Not the cluster rules (`rules`): those are about what a well-formed cluster may wish for.
"""

import difflib
from collections.abc import Mapping
from typing import Any, NamedTuple, get_args

from pydantic import ValidationError

from vectorizer_operator.api.checks import CHECKS, NAME_EXPECTED
from vectorizer_operator.api.cluster import VectorizerCluster, without_nulls
from vectorizer_operator.api.rules import value_at
from vectorizer_operator.api.types import Model


class Problem(NamedTuple):
    """A place in the object, as its user would write it (`spec.storage.size`), and what is wrong there."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def structural_problems(raw: Mapping[str, Any]) -> list[Problem]:
    """Everything in *raw* that the API server would refuse beside the cluster rules."""
    raw = without_nulls(raw)
    problems: list[Problem] = []
    try:
        VectorizerCluster.parse(raw)
    except ValidationError as error:
        problems = list(dict.fromkeys(_problem(details) for details in error.errors()))
    misshapen = [problem.path for problem in problems]
    for check in CHECKS:
        path = ".".join(check.path)
        if any(other.startswith(path) or path.startswith(f"{other}.") for other in misshapen):
            continue  # a check can judge only what has the right shape
        value = value_at(raw, check.path)
        if value is not None and not check.holds(value):
            problems.append(Problem(path, f"{check.expected}, found {_short(check.culprit(value))}"))
    return problems


_EXPECTED = {
    "int_type": "expected a whole number",
    "bool_type": "expected true or false",
    "string_type": "expected a text",
    "dict_type": "expected a mapping",
    "list_type": "expected a list",
    "model_type": "expected a mapping",
    "model_attributes_type": "expected a mapping",
}


def _problem(details: Any) -> Problem:
    location = [part for part in details["loc"] if part not in ("int", "str")]  # arms of an int-or-string
    if location[-1:] == ["[key]"]:
        return Problem(
            _dotted([*location[:-2], str(location[-2])]), "a key has to be a text: put it in quotes"
        )
    path = _dotted(location)
    kind = details["type"]
    if kind == "extra_forbidden":
        return Problem(path, "unknown field" + _suggestion(location))
    if kind == "missing":
        return Problem(path, "required and not set")
    if path == "metadata.name" and isinstance(details["input"], str):
        return Problem(path, f"{NAME_EXPECTED}, found {_short(details['input'])}")
    expected = _EXPECTED.get(kind) or details["msg"][:1].lower() + details["msg"][1:]
    if "int" in details["loc"] or "str" in details["loc"]:
        expected = "expected a whole number or a quantity such as 512Mi"
    return Problem(path, f"{expected}, found {_short(details['input'])}")


def _dotted(location: list[Any]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path


def _short(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else text[:77] + "…"


def _suggestion(location: list[Any]) -> str:
    """What the unknown field at *location* may have been meant to be."""
    model: type[Model] = VectorizerCluster
    for part in location[:-1]:
        if isinstance(part, int):
            continue  # a list's model is the one of its entries
        annotation: Any = next(
            field.annotation for field in model.model_fields.values() if field.alias == part
        )
        model = next(kind for kind in (*get_args(annotation), annotation) if issubclass(kind, Model))
    names = [str(field.alias) for field in model.model_fields.values()]
    close = difflib.get_close_matches(str(location[-1]), names, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known here: {', '.join(names)}"
