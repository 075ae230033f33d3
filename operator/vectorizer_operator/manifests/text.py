"""Rendered objects as YAML that people read: texts of several lines stay as they are."""

from collections.abc import Iterable
from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
    pass


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def as_yaml(objects: Iterable[Any]) -> str:
    """*objects* as documents of one YAML stream."""
    text: str = yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, width=110)
    return text
