"""`config.example.yml`: every setting of the engine, with its default, range and consequence."""

import textwrap
from collections.abc import Iterator
from enum import Enum
from typing import Any

import yaml
from pydantic.fields import FieldInfo

from vectorizer_engine.config import ENVIRONMENT_PREFIX, Config, is_section

_HEAD = f"""\
# Every setting of the engine, at its default. Made from the models by `make generate`; do not edit this one, copy it.
# Each can be overridden from the environment: {ENVIRONMENT_PREFIX}CLUSTER__MAX_CACHE_MEMORY_BYTES=268435456.
# Sizes are whole bytes or quantities such as 512Mi. Unknown settings are refused.
#
# As it stands, this is a standalone engine. For cluster mode set cluster.enabled to true: then memory storage, a file
# watcher and a cache limit above 1Gi are refused, at start and at run time. The other defaults hold in both modes.
"""
_UNITS = ((1024**3, "Gi"), (1024**2, "Mi"), (1024, "Ki"))


def config_example() -> str:
    return _HEAD + "".join(_sections())


def _sections() -> Iterator[str]:
    for section, info in Config.model_fields.items():
        yield f"\n{section}:\n"
        yield from _fields(info.annotation, "  ")


def _fields(model: Any, indent: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        for line in textwrap.wrap(f"{field.description}{bounds(field)}", 112 - len(indent)):
            yield f"{indent}# {line}\n"
        if is_section(field.annotation):
            yield f"{indent}{name}:\n"
            yield from _fields(field.annotation, indent + "  ")
        else:
            yield f"{indent}{name}: {default_value(field)}\n"


def default_value(field: FieldInfo) -> str:
    """The default as YAML has it, sizes as quantities."""
    default = field.default
    if isinstance(default, int) and not isinstance(default, bool):
        return _number(default)
    if isinstance(default, tuple):
        default = list(default)
    if isinstance(default, Enum):
        default = default.value
    return yaml.safe_dump(
        default if isinstance(default, int | str | list | None) else str(default)
    ).splitlines()[0]


def _number(number: int) -> str:
    """As it is best read: whole units as a quantity."""
    for unit, suffix in _UNITS:
        if number >= unit and number % unit == 0:
            return f"{number // unit}{suffix}"
    return str(number)


def bounds(field: FieldInfo) -> str:
    """The bounds that the field's type has, as a sentence behind a blank, or nothing."""
    found = {
        kind: _number(getattr(bound, kind))
        for bound in field.metadata
        for kind in ("ge", "gt", "le")
        if hasattr(bound, kind)
    }
    if "ge" in found and "le" in found:
        return f" From {found['ge']} to {found['le']}."
    if "ge" in found:
        return f" At least {found['ge']}."
    return f" Above {found['gt']}." if "gt" in found else ""
