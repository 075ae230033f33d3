"""From JSON bytes to typed values, with errors that name the place and what was expected.

Vectors go straight into one float32 array, row by row, so that a batch never exists as Python numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np

from vectorizer_engine._native import read_vector
from vectorizer_engine.collection.filters import parse_id
from vectorizer_engine.collection.types import Payload, PointId
from vectorizer_engine.errors import DimensionMismatch, InvalidRequest, InvalidVector
from vectorizer_engine.index.base import Vectors

T = TypeVar("T")

_MESSAGE = re.compile(r"(?P<problem>.*?)(?: - at `\$(?P<path>.*)`)?", re.DOTALL)
_UNSUPPORTED = re.compile(r"Expected `null`, got `(?!null)")

_floats = msgspec.json.Decoder(list[float])
_payload = msgspec.json.Decoder(Payload | None)
_named = msgspec.json.Decoder(dict[str, msgspec.Raw])


def decode(decoder: msgspec.json.Decoder[T], body: bytes | bytearray | msgspec.Raw, *, where: str = "") -> T:
    """*body* as the decoder's type. *where* is the path of the body inside the request, if it is a part.

    Raises InvalidRequest that says where the JSON is malformed, or which value is not what was expected.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"Format error in JSON body: {_explain(str(error), where)}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        problem = f"{where}: {error}" if where else _malformed(body, error)
        raise InvalidRequest(f"Format error in JSON body: {problem}") from None


def _malformed(body: bytes | bytearray | msgspec.Raw, error: Exception) -> str:
    """Why a whole body is no JSON, and at which byte."""
    text = bytes(body)
    if not text:
        return "it is empty, expected an object"
    try:
        text.decode()
    except UnicodeDecodeError as not_text:
        return f"it is not UTF-8: {not_text.reason} (byte {not_text.start})"
    if str(error) == "Input data was truncated":
        return f"JSON is malformed: it ends in the middle of a value (byte {len(text)})"
    return str(error)


def _explain(message: str, where: str) -> str:
    match = _MESSAGE.fullmatch(message)
    assert match is not None
    problem, path = match["problem"], f"{where}{match['path'] or ''}".removeprefix(".")
    if _UNSUPPORTED.match(problem):
        return f"{path} is not supported by this engine: leave it out"
    if problem.startswith("Invalid enum value"):
        return f"{path}: {problem.removeprefix('Invalid enum value ')} is not supported: leave it out"
    problem = problem.replace("Object contains unknown field", "not known or not supported: the field")
    return f"{path}: {problem}" if path else problem


def unnamed(raw: msgspec.Raw, name: str, *, where: str) -> msgspec.Raw:
    """What *raw* holds under the collection's vector *name*, or *raw* itself where it is a plain list and may be.

    Raises InvalidRequest for other names, and for what can only be a sparse vector or a text to be embedded.
    """
    if first_byte(raw) != b"{":
        if name:
            raise InvalidRequest(f"{where}: the vectors of this collection are named: send {_example(name)}")
        return raw
    named = decode(_named, raw, where=where)
    if named.keys() != {name}:
        raise InvalidRequest(
            f"{where}: found an object with {', '.join(map(repr, named)) or 'nothing'}: expected {_example(name)}; "
            "more named vectors, sparse vectors and inference are not supported"
        )
    return named[name]


def _example(name: str) -> str:
    return f'{{"{name}": [0.1, …]}}' if name else "one list of numbers"


def decode_vector(raw: msgspec.Raw, *, where: str, collection: str, dimension: int) -> Vectors:
    """A JSON list of numbers as float32 of shape [1, dimension]."""
    return decode_vectors([raw], where=lambda _: where, collection=collection, dimension=dimension)


def decode_vectors(
    rows: Sequence[msgspec.Raw], *, where: Callable[[int], str], collection: str, dimension: int
) -> Vectors:
    """JSON lists of numbers as one float32 array of shape [len(rows), dimension].

    *where* names a row's place in the request. Raises InvalidRequest for what is no list of numbers, and
    DimensionMismatch; a number that float32 cannot hold becomes infinite, which the collection refuses.
    """
    vectors = np.empty((len(rows), dimension), dtype=np.float32)
    with np.errstate(over="ignore"):
        for i, raw in enumerate(rows):
            if read_vector(raw, vectors[i]):
                continue
            try:
                row = _floats.decode(raw)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise _not_a_vector(raw, error, where(i)) from None
            if len(row) != dimension:
                raise DimensionMismatch(collection=collection, expected=dimension, got=len(row))
            vectors[i] = row
    return vectors


class Payloads(Sequence[Payload | None]):
    """The payloads of a batch, each decoded when it is looked at: as objects they would take many times their JSON.

    Looking at one raises InvalidRequest where it is no object.
    """

    def __init__(self, raws: Sequence[msgspec.Raw], *, where: Callable[[int], str]) -> None:
        self._raws = raws
        self._where = where

    def __len__(self) -> int:
        return len(self._raws)

    def __getitem__(self, index: Any) -> Any:
        return decode(_payload, self._raws[index], where=self._where(index))


def first_byte(raw: msgspec.Raw) -> bytes:
    """What kind of JSON value *raw* is shows in its first byte."""
    return bytes(memoryview(raw)[:1])


def _not_a_vector(raw: msgspec.Raw, error: Exception, where: str) -> InvalidRequest:
    if first_byte(raw) == b"{":
        return InvalidRequest(
            f"{where}: found an object: named vectors, sparse vectors and inference are not supported, "
            "send one list of numbers"
        )
    problem = str(error)
    if "got `array`" in problem:
        return InvalidRequest(f"{where}: found a list of lists: multivectors are not supported")
    if "got `null`" in problem or "Number out of range" in problem:
        return InvalidVector(
            f"{where}: {_explain(problem, '')}: every number must be finite "
            "(JSON has no NaN or infinity, and some clients send null instead)"
        )
    return InvalidRequest(f"{where}: expected a list of numbers: {_explain(problem, '')}")


def decode_ids(values: Sequence[int | str], *, where: str) -> list[PointId]:
    """Ids as they came from JSON. Raises InvalidRequest for the first that is none."""
    return [
        value if type(value) is int and 0 <= value < 2**64 else parse_id(value, where=f"{where}[{i}]")
        for i, value in enumerate(values)
    ]
