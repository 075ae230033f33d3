"""The calls about payload indexes: which fields of the payloads are indexed, in Qdrant's shapes.

An index here has few settings, because it is always mapped and always answers all that its type can be asked.
Settings that say so are taken, others are refused by name.
"""

from __future__ import annotations

from typing import Any

import msgspec

from vectorizer_engine.api.call import AnyCollection, Call
from vectorizer_engine.api.decoding import decode, first_byte
from vectorizer_engine.api.requests import CreateFieldIndex
from vectorizer_engine.errors import InvalidRequest
from vectorizer_engine.storage.payload_index import FieldType

_TYPES = ", ".join(FieldType)

_EITHER = (True, False)
"""What need not be served is served anyway."""

_SETTINGS: dict[str, tuple[object, ...]] = {
    "on_disk": (True,),
    "memory": ("cold",),
    "is_tenant": (False,),
    "is_principal": (False,),
    "enable_hnsw": (False,),
}
_SETTINGS_OF_TYPE: dict[FieldType, dict[str, tuple[object, ...]]] = {
    FieldType.KEYWORD: {"prefix": _EITHER},
    FieldType.INTEGER: {"lookup": _EITHER, "range": _EITHER},
    FieldType.TEXT: {
        "tokenizer": ("word",),
        "lowercase": (True,),
        "phrase_matching": _EITHER,
        "ascii_folding": (False,),
    },
}
"""The settings that are known, and the values that describe how things are here."""

_create = msgspec.json.Decoder(CreateFieldIndex)
_name = msgspec.json.Decoder(str)
_settings = msgspec.json.Decoder(dict[str, Any])


def create_payload_index(call: Call) -> Any:
    """With `wait` it is built when this is answered, or, where there is no memory for it, "acknowledged" only."""
    body = decode(_create, call.body)
    collection = call.collection
    built = collection.create_payload_index(body.field_name, _type(body.field_schema), wait=call.wait)
    return _answer(collection, completed=built)


def delete_payload_index(call: Call) -> Any:
    collection = call.collection
    collection.delete_payload_index(call.path["field"])
    return _answer(collection, completed=True)


def describe_payload_schema(collection: AnyCollection) -> dict[str, Any]:
    return {
        path: {
            "data_type": field.type,
            "params": {"type": field.type, **_served(field.type)},
            "points": field.points,
        }
        for path, field in collection.payload_schema().items()
    }


def _served(type: FieldType) -> dict[str, object]:
    """The settings that say what an index of *type* does."""
    settings = {"on_disk": _SETTINGS["on_disk"], **_SETTINGS_OF_TYPE.get(type, {})}
    return {name: values[0] for name, values in settings.items()}


def _type(schema: msgspec.Raw | msgspec.UnsetType) -> FieldType:
    if isinstance(schema, msgspec.UnsetType):
        raise InvalidRequest(f"field_schema is missing: expected one of {_TYPES}")
    if first_byte(schema) != b"{":
        return _known(decode(_name, schema, where="field_schema"), "field_schema")
    settings = decode(_settings, schema, where="field_schema")
    type = _known(settings.pop("type", None), "field_schema.type")
    supported = _SETTINGS | _SETTINGS_OF_TYPE.get(type, {})
    for name, value in settings.items():
        if value is not None and repr(value) not in map(repr, supported.get(name, ())):  # 1 is not True
            raise InvalidRequest(
                f"field_schema.{name}: {value!r} is not supported for an index of type {type}: "
                + (
                    f"expected {supported[name][0]!r}, or leave it out"
                    if name in supported
                    else "leave it out"
                )
            )
    return type


def _known(name: object, where: str) -> FieldType:
    for type in FieldType:
        if type == name:
            return type
    raise InvalidRequest(f"{where}: {name!r} is not supported: expected one of {_TYPES}")


def _answer(collection: AnyCollection, *, completed: bool) -> Any:
    return {
        "operation_id": collection.last_operation,
        "status": "completed" if completed else "acknowledged",
    }
