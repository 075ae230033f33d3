"""What members of a cluster ask each other: to carry out operations on shards, for the most part."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from vectorizer_engine.distributed.operations import AnyOperation
from vectorizer_engine.errors import InvalidRequest

READ_PATH, WRITE_PATH = "/internal/read", "/internal/write"
CATALOG_PATH = "/internal/catalog"
FRAMES_PATH = "/internal/frames"
RELEASE_PATH = "/internal/release"
SHARDS_PATH = "/internal/shards"
TOPOLOGY_PATH = "/internal/topology"

_T = TypeVar("_T")


class Job(msgspec.Struct, array_like=True):
    """The same operation for some shards."""

    shards: list[int]
    operation: AnyOperation


class Request(msgspec.Struct, array_like=True):
    """What one member asks another. `version` is that of the topology by which it asks.

    With `partial`, shards that cannot be read are told in the answer, which is an error otherwise.
    """

    token: str
    version: int
    jobs: list[Job]
    partial: bool = False


class Done(msgspec.Struct, array_like=True):
    """The result of an operation by some shards."""

    shards: list[int]
    result: Any


class Response(msgspec.Struct, array_like=True):
    """What was done, and which shards are not here. `version` is that of the topology of whoever answers.

    Those in `with_former` will be, and are still with the owner before. Those that `failed` cannot be read.
    """

    version: int
    done: list[Done]
    moved: list[int]
    with_former: list[int]
    failed: dict[int, str]


class _RawDone(msgspec.Struct, array_like=True):
    shards: list[int]
    result: msgspec.Raw


class _RawResponse(msgspec.Struct, array_like=True):
    version: int
    done: list[_RawDone]
    moved: list[int]
    with_former: list[int]
    failed: dict[int, str] = {}


request_decoder = msgspec.msgpack.Decoder(Request)
response_decoder = msgspec.msgpack.Decoder(_RawResponse)


def decode_request(decoder: msgspec.msgpack.Decoder[_T], body: bytes | bytearray) -> _T:
    """Raises InvalidRequest."""
    try:
        return decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise InvalidRequest(f"not a request of a member of this cluster: {error}") from None
