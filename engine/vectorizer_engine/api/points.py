"""The calls that write and read points by id or filter. Searching is `api.search`'s affair."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from vectorizer_engine.api.answers import Fragments, Hold, encode, listed
from vectorizer_engine.api.bodies import WRITE_COPIES
from vectorizer_engine.api.call import AnyCollection, Call
from vectorizer_engine.api.decoding import Payloads, decode, decode_ids, decode_vectors, unnamed
from vectorizer_engine.api.errors import ValidationFailed
from vectorizer_engine.api.requests import (
    Batch,
    CountPoints,
    DeletePayload,
    Point,
    RetrievePoints,
    ScrollPoints,
    SelectPoints,
    SetPayload,
    UpdateBatch,
    UpsertPoints,
)
from vectorizer_engine.api.results import Selection
from vectorizer_engine.collection.filters import EVERY_POINT, compile_filter, parse_id
from vectorizer_engine.collection.payload_path import parse_path
from vectorizer_engine.collection.records import Record
from vectorizer_engine.collection.types import Payload, PointId, Predicate
from vectorizer_engine.errors import InvalidRequest, PointNotFound

_retrieve = msgspec.json.Decoder(RetrievePoints)
_scroll = msgspec.json.Decoder(ScrollPoints)
_count = msgspec.json.Decoder(CountPoints)
_update_batch = msgspec.json.Decoder(UpdateBatch)
_rows = msgspec.json.Decoder(list[msgspec.Raw])

_SCROLL_LIMIT = 10

_POINTS_AT_ONCE = 500
"""An answer holds so many points at a time: without their payloads and vectors, a quarter of a megabyte."""

_DECODED_IDS = 12
"""A list of ids takes up to so many times its JSON once it is decoded: short numbers do."""

_DIGITS = len(str(2**64))
"""No id has more. Python refuses to convert thousands of them."""


# --- writing -------------------------------------------------------------------------------------------


def operation(kind: str) -> Callable[[Call], Any]:
    """The handler of requests that are one operation of this *kind*."""
    decoder, carry_out = _OPERATIONS[kind]
    return lambda call: carry_out(call, decode(decoder, call.body))


def _upsert_points(call: Call, body: UpsertPoints) -> Any:
    collection = call.collection
    if (body.points is None) == (body.batch is None):
        raise InvalidRequest("expected exactly one of points and batch")
    if body.points is not None:
        columns = _from_points(body.points, collection)
    else:
        assert body.batch is not None
        columns = _from_batch(body.batch, collection)
    if not columns.ids:
        raise InvalidRequest("there is no point in the request: send at least one")
    params = collection.params
    with call.engine.request_memory.writes.room(WRITE_COPIES * 4 * params.dimension * len(columns.ids)):
        number = collection.upsert(
            columns.ids,
            # Not by a name, which would keep them while the copies of them are made that are stored.
            decode_vectors(
                columns.vectors,
                where=columns.vector_at,
                collection=collection.name,
                dimension=params.dimension,
            ),
            columns.payloads,
            wait=call.wait,
        )
    return _done(call, number)


class _Columns(NamedTuple):
    """The points of a request; their vectors and payloads are not decoded yet."""

    ids: list[PointId]
    vectors: Sequence[msgspec.Raw]
    vector_at: Callable[[int], str]
    payloads: Sequence[Payload | None]


def _from_points(points: list[Point], collection: AnyCollection) -> _Columns:
    name = collection.params.vector_name

    def vector_at(index: int) -> str:
        return f"points[{index}].vector"

    return _Columns(
        decode_ids([point.id for point in points], where="points"),
        [unnamed(point.vector, name, where=vector_at(i)) for i, point in enumerate(points)],
        vector_at,
        Payloads([point.payload for point in points], where=lambda i: f"points[{i}].payload"),
    )


def _from_batch(batch: Batch, collection: AnyCollection) -> _Columns:
    columns = unnamed(batch.vectors, collection.params.vector_name, where="batch.vectors")
    rows = decode(_rows, columns, where="batch.vectors")
    payloads: Sequence[Payload | None] = [None] * len(rows)
    if batch.payloads is not None:
        payloads = Payloads(batch.payloads, where=lambda i: f"batch.payloads[{i}]")
    if not len(batch.ids) == len(rows) == len(payloads):
        raise InvalidRequest(
            f"batch: {len(batch.ids)} ids, {len(rows)} vectors and {len(payloads)} payloads: "
            "expected as many of each"
        )
    return _Columns(decode_ids(batch.ids, where="batch.ids"), rows, lambda i: f"batch.vectors[{i}]", payloads)


def _delete_points(call: Call, body: SelectPoints) -> Any:
    return _done(call, call.collection.delete(**_selected(body), wait=call.wait))


def _set_payload(call: Call, body: SetPayload) -> Any:
    return _done(call, call.collection.set_payload(body.payload, **_selected(body), wait=call.wait))


def _overwrite_payload(call: Call, body: SetPayload) -> Any:
    return _done(call, call.collection.overwrite_payload(body.payload, **_selected(body), wait=call.wait))


def _delete_payload(call: Call, body: DeletePayload) -> Any:
    for key in body.keys:
        if any(isinstance(step, int) for step in parse_path(key)):
            raise InvalidRequest(
                f"keys: {key!r} names one element of a list: only all of them, as [], can be chosen"
            )
    return _done(call, call.collection.delete_payload(body.keys, **_selected(body), wait=call.wait))


def _clear_payload(call: Call, body: SelectPoints) -> Any:
    return _done(call, call.collection.clear_payload(**_selected(body), wait=call.wait))


_OPERATIONS: dict[str, tuple[msgspec.json.Decoder[Any], Callable[[Call, Any], Any]]] = {
    "upsert": (msgspec.json.Decoder(UpsertPoints), _upsert_points),
    "delete": (msgspec.json.Decoder(SelectPoints), _delete_points),
    "set_payload": (msgspec.json.Decoder(SetPayload), _set_payload),
    "overwrite_payload": (msgspec.json.Decoder(SetPayload), _overwrite_payload),
    "delete_payload": (msgspec.json.Decoder(DeletePayload), _delete_payload),
    "clear_payload": (msgspec.json.Decoder(SelectPoints), _clear_payload),
}
"""What a request may be one of, and a batch may hold."""


def update_batch(call: Call) -> Any:
    """Operations one after another, as if each had come alone. Where one fails, those before it are done."""
    call.collection  # noqa: B018 - so that its loss is noticed, and nothing is done where it does not exist
    done = []
    for number, each in enumerate(decode(_update_batch, call.body).operations):
        where = f"operations[{number}]"
        if len(each) != 1 or not each.keys() <= _OPERATIONS.keys():
            raise InvalidRequest(
                f"{where}: expected an object with one of {', '.join(_OPERATIONS)}, found one with "
                f"{', '.join(map(repr, each)) or 'nothing'}; operations before it are done"
            )
        [(kind, body)] = each.items()
        try:
            decoder, carry_out = _OPERATIONS[kind]
            done.append(carry_out(call, decode(decoder, body)))
        except InvalidRequest as error:
            error.args = (f"{where}.{kind}: {error}; operations before it are done",)
            raise
    return done


def _selected(body: SelectPoints) -> dict[str, Any]:
    """The points to change, as the keyword arguments of a collection's methods."""
    if (body.points is None) == (body.filter is None):
        raise InvalidRequest("expected exactly one of points and filter, to say which points to change")
    if body.points is not None:
        return {"ids": decode_ids(body.points, where="points")}
    return {"predicate": compile_filter(body.filter) or EVERY_POINT}


def _done(call: Call, operation: int) -> Any:
    return {"operation_id": operation, "status": "completed" if call.wait else "acknowledged"}


# --- reading -------------------------------------------------------------------------------------------


def get_point(call: Call) -> Any:
    text = call.path["id"]
    number = text.isascii() and text.isdigit() and len(text) <= _DIGITS
    point = parse_id(int(text) if number else text, where="the path's id")
    selection = Selection(True, True, vector_name=call.collection.params.vector_name)
    found = call.collection.retrieve([point], wanted=selection.wanted)
    if not found:
        raise PointNotFound(collection=call.collection.name, point=point)
    return selection.record(found[0])


def retrieve_points(call: Call) -> Fragments:
    yield Hold(_DECODED_IDS * len(call.body), "ask for fewer ids at a time")
    body = decode(_retrieve, call.body)
    collection = call.collection
    selection = _selection(body, collection)
    ids = decode_ids(body.ids, where="ids")
    yield from listed(
        selection.record(record)
        for start in range(0, len(ids), _POINTS_AT_ONCE)
        for record in collection.retrieve(ids[start : start + _POINTS_AT_ONCE], wanted=selection.wanted)
    )


def scroll_points(call: Call) -> Fragments:
    body = decode(_scroll, call.body)
    collection = call.collection
    selection = _selection(body, collection)
    following = None if body.offset is None else parse_id(body.offset, where="offset")
    limit = at_least_one(body.limit, default=_SCROLL_LIMIT)
    predicate = compile_filter(body.filter)

    def found() -> Iterator[Record]:
        nonlocal following, limit
        while limit:
            records, following = collection.scroll(
                start=following,
                limit=min(limit, _POINTS_AT_ONCE),
                predicate=predicate,
                wanted=selection.wanted,
            )
            yield from records
            limit = 0 if following is None else limit - len(records)

    yield b'{"points":'
    yield from listed(map(selection.record, found()))
    yield b',"next_page_offset":' + encode(following) + b"}"


def count_points(call: Call) -> Any:
    body = decode(_count, call.body)
    predicate: Predicate | None = compile_filter(body.filter)
    return {"count": call.collection.count(predicate)}


def at_least_one(limit: int | None, *, default: int) -> int:
    """A request's limit. Raises ValidationFailed for 0."""
    if limit == 0:
        raise ValidationFailed("Validation error in JSON body: [limit: value 0 invalid, must be 1 or larger]")
    return default if limit is None else limit


def _selection(body: RetrievePoints | ScrollPoints, collection: AnyCollection) -> Selection:
    return Selection(
        body.with_payload,
        body.with_vectors if body.with_vector is None else body.with_vector,  # Qdrant takes both
        vector_name=collection.params.vector_name,
    )
