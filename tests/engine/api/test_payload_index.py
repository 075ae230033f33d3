"""Payload indexes through the real client."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from qdrant_client import QdrantClient, models

from tests.engine.fixtures import StartEngine

VECTORS = models.VectorParams(size=4, distance=models.Distance.DOT)
TYPES = [each for each in models.PayloadSchemaType if each is not models.PayloadSchemaType.GEO]


def upsert(client: QdrantClient, collection: str) -> None:
    points = [
        models.PointStruct(id=n, vector=[n, 1, 0, 0], payload={"group": n % 3, "name": f"point {n}"})
        for n in range(30)
    ]
    client.upsert(collection, points)


@pytest.mark.parametrize("type", TYPES)
def test_an_index_of_every_type_is_created_described_and_deleted(
    client: QdrantClient, type: models.PayloadSchemaType
) -> None:
    name = f"index {type.value}"
    client.create_collection(name, VECTORS)
    upsert(client, name)

    done = client.create_payload_index(name, "a.b[].c", field_schema=type)

    assert done.status == models.UpdateStatus.COMPLETED
    (path, field), *others = client.get_collection(name).payload_schema.items()
    assert (path, field.data_type, field.points, others) == ("a.b[].c", type, 0, [])
    assert client.delete_payload_index(name, "a.b[].c").status == models.UpdateStatus.COMPLETED
    assert client.get_collection(name).payload_schema == {}


def test_settings_that_say_how_things_are_anyway_are_taken(client: QdrantClient) -> None:
    client.create_collection("settings", VECTORS)
    upsert(client, "settings")
    text = models.TextIndexParams(
        type=models.TextIndexType.TEXT, tokenizer=models.TokenizerType.WORD, lowercase=True
    )
    integer = models.IntegerIndexParams(type=models.IntegerIndexType.INTEGER, lookup=False, range=True)

    client.create_payload_index("settings", "name", field_schema=text)
    client.create_payload_index("settings", "group", field_schema=integer)

    schema = client.get_collection("settings").payload_schema
    assert schema["name"].points == schema["group"].points == 30
    assert isinstance(schema["name"].params, models.TextIndexParams)
    assert schema["name"].params.tokenizer is models.TokenizerType.WORD
    assert isinstance(schema["group"].params, models.IntegerIndexParams)
    assert schema["group"].params.on_disk is True


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"field_name": "a"}, "field_schema is missing: expected one of keyword, integer"),
        ({"field_schema": "keyword"}, "required field `field_name`"),
        ({"field_name": "a", "field_schema": "geo"}, "field_schema: 'geo' is not supported: expected one of"),
        ({"field_name": "a", "field_schema": 7}, "field_schema: Expected `str`, got `int`"),
        ({"field_name": "a", "field_schema": {}}, "field_schema.type: None is not supported"),
        ({"field_name": "a.", "field_schema": "keyword"}, "'a.' is not a payload path"),
        (
            {"field_name": "a", "field_schema": {"type": "text", "tokenizer": "multilingual"}},
            "field_schema.tokenizer: 'multilingual' is not supported for an index of type text: expected 'word'",
        ),
        (
            {"field_name": "a", "field_schema": {"type": "text", "min_token_len": 2}},
            "min_token_len: 2 is not",
        ),
        (
            {"field_name": "a", "field_schema": {"type": "keyword", "is_tenant": True}},
            "is_tenant: True is not",
        ),
        ({"field_name": "a", "field_schema": {"type": "keyword", "on_disk": 1}}, "on_disk: 1 is not"),
        ({"field_name": "a", "field_schema": {"type": "keyword", "lookup": True}}, "lookup: True is not"),
        ({"field_name": "a", "field_schema": "keyword", "unknown": 1}, "the field `unknown`"),
    ],
)
def test_what_an_index_cannot_be_is_refused_by_name(
    client: QdrantClient, http: httpx.Client, body: dict[str, Any], says: str
) -> None:
    if not client.collection_exists("refusing"):
        client.create_collection("refusing", VECTORS)
    answer = http.put("/collections/refusing/index?wait=true", json=body)
    assert answer.status_code == 400
    assert says in answer.json()["status"]["error"]
    assert client.get_collection("refusing").payload_schema == {}


def test_an_index_of_an_unknown_collection_is_404(http: httpx.Client) -> None:
    body = {"field_name": "a", "field_schema": "keyword"}
    assert http.put("/collections/nowhere/index", json=body).status_code == 404
    assert http.delete("/collections/nowhere/index/a").status_code == 404


def test_the_schema_survives_kill_9(make_engine: StartEngine) -> None:
    engine = make_engine().start()
    client = engine.client()
    client.create_collection("c", VECTORS)
    client.create_payload_index("c", "group", field_schema="integer")
    upsert(client, "c")
    engine.kill()
    engine.start()
    assert client.get_collection("c").payload_schema["group"].points == 30
    wanted = models.Filter(must=[models.FieldCondition(key="group", match=models.MatchValue(value=1))])
    assert client.count("c", count_filter=wanted).count == 10
    client.close()
