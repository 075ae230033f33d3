"""Building blocks of the configuration's models: sections, sizes, keys in files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from pydantic_core import PydanticCustomError

from vectorizer_engine.cluster.quantity import parse_quantity


class Section(BaseModel):
    """A part of the configuration: no unknown settings, and it does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _bytes(value: object) -> object:
    parsed = parse_quantity(value)
    return value if parsed is None else parsed


Bytes = Annotated[int, BeforeValidator(_bytes), Field(strict=True)]
"""A size in bytes, written as a whole number or as a quantity such as 512Mi."""


def _key_in_file(path: object) -> str:
    if not isinstance(path, str | Path):
        raise PydanticCustomError("key_file", "expected the path of a file")
    try:
        words = Path(path).read_text(encoding="utf-8").split()
    except OSError as error:
        raise PydanticCustomError(
            "key_file", "cannot be read: {reason}", {"reason": error.strerror or str(error)}
        ) from None
    except ValueError:  # no UTF-8, or a path with a null character
        words = []
    if len(words) != 1:
        raise PydanticCustomError("key_file", "expected a file that holds one key and nothing else")
    return words[0]


KeyInFile = Annotated[SecretStr, BeforeValidator(_key_in_file)]
"""An API key, written as the path of the file that holds it. The file is read with the configuration."""
