"""The same random work by Qdrant's client on the engine and on the client's own local mode: equal answers.

Filters have a comparison of their own in `tests.engine.collection.test_filters`; here they are few.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from vectorizer_engine.collection.types import Distance

SIZE = 6
STEPS = 60
IDS: list[int | str] = [*range(25), 2**64 - 1, *(str(uuid.UUID(int=number << 60)) for number in range(1, 15))]
PAYLOADS: list[dict[str, Any] | None] = [
    None,
    {},
    {"colour": "red"},
    {"colour": "blue", "size": 3},
    {"size": 7, "tags": ["a", "b"], "maker": {"city": "Bonn", "year": 1999}},
    {"tags": [], "maker": None, "rating": -2.5, "good": True, "text": "grün \u2603 \U0001f600"},
]
PATHS = ["colour", "size", "tags", "maker.city", "tags[]"]


class Twins:
    """Two clients that are asked the same."""

    def __init__(self, engine: QdrantClient, local: QdrantClient, seed: int) -> None:
        self.engine = engine
        self.local = local
        self.random = random.Random(seed)

    def ask(self, name: str, **arguments: Any) -> Any:
        """The engine's answer, held against the other's."""
        answers = []
        for client in (self.engine, self.local):
            try:
                answers.append(getattr(client, name)("twins", **arguments))
            except (UnexpectedResponse, ValueError) as error:
                assert not isinstance(error, UnexpectedResponse) or error.status_code == 404, error
                answers.append("refused")
        assert comparable(answers[0]) == comparable(answers[1]), (name, arguments)
        return answers[0]

    # --- choices ---------------------------------------------------------------------------------------

    def vector(self) -> list[float]:
        return [self.random.uniform(-1, 1) for _ in range(SIZE)]

    def ids(self, most: int = 8) -> list[int | str]:
        return self.random.choices(IDS, k=self.random.randint(1, most))

    def filter(self) -> models.Filter | None:
        condition = self.random.choice(
            [
                None,
                models.FieldCondition(key="colour", match=models.MatchValue(value="red")),
                models.FieldCondition(key="size", range=models.Range(gt=2, lte=7)),
                models.FieldCondition(key="maker.city", match=models.MatchAny(any=["Bonn", "Rome"])),
                models.HasIdCondition(has_id=self.ids()),
                models.IsEmptyCondition(is_empty=models.PayloadField(key="tags")),
            ]
        )
        if condition is None:
            return None
        clause = self.random.choice(["must", "should", "must_not"])
        return models.Filter(**{clause: [condition]})

    def selected(self) -> Any:
        """Points that exist: of unknown ones, and of an empty list, each client has an opinion of its own."""
        there = [point.id for point in self.local.scroll("twins", limit=1000)[0]]
        some = self.random.sample(there, min(len(there), self.random.randint(1, 6)))
        return self.filter() or some or models.Filter()

    def with_payload(self) -> Any:
        paths = self.random.sample(PATHS, 2)
        return self.random.choice(
            [
                True,
                False,
                paths,
                models.PayloadSelectorInclude(include=paths),
                models.PayloadSelectorExclude(exclude=paths),
            ]
        )

    # --- steps -----------------------------------------------------------------------------------------

    def upsert(self) -> None:
        self.ask(
            "upsert",
            points=[
                models.PointStruct(id=point, vector=self.vector(), payload=self.random.choice(PAYLOADS))
                for point in self.ids(12)
            ],
        )

    def delete(self) -> None:
        self.ask("delete", points_selector=self.selected())

    def change_payload(self) -> None:
        payload = self.random.choice(PAYLOADS[2:])
        call, arguments = self.random.choice(
            [
                ("set_payload", {"payload": payload, "points": self.selected()}),
                ("overwrite_payload", {"payload": payload, "points": self.selected()}),
                ("delete_payload", {"keys": ["colour", "tags"], "points": self.selected()}),
                ("clear_payload", {"points_selector": self.selected()}),
            ]
        )
        self.ask(call, **arguments)

    def read(self) -> None:
        selection = {"with_payload": self.with_payload(), "with_vectors": self.random.choice([True, False])}
        self.ask("retrieve", ids=list(dict.fromkeys(self.ids())), **selection)
        self.ask("count", count_filter=self.filter())
        page = {"scroll_filter": self.filter(), "limit": self.random.randint(1, 9), **selection}
        following = None
        while True:
            _, following = self.ask("scroll", offset=following, **page)
            if following is None:
                break

    def search(self) -> None:
        query: dict[str, Any] = {
            "limit": self.random.randint(1, 30),
            "offset": self.random.choice([None, 0, 3]),
            "query_filter": self.filter(),
            "score_threshold": self.random.choice([None, None, 0.3]),
            "with_payload": self.with_payload(),
            "with_vectors": self.random.choice([True, False]),
        }
        self.ask("query_points", query=self.random.choice([self.vector(), self.random.choice(IDS)]), **query)

    def search_batch(self) -> None:
        filters = [self.filter() for _ in range(2)]
        self.ask(
            "query_batch_points",
            requests=[
                models.QueryRequest(
                    query=self.vector(),
                    limit=self.random.randint(1, 5),
                    filter=self.random.choice(filters),
                    with_payload=True,
                )
                for _ in range(5)
            ],
        )


_OWN = ("version", "operation_id")


def comparable(answer: Any) -> Any:
    """An answer without what only one of the two knows, its numbers rounded as float32 allows."""
    if hasattr(answer, "model_dump"):
        return comparable(answer.model_dump())
    if isinstance(answer, dict):
        return {key: comparable(value) for key, value in answer.items() if key not in _OWN}
    if isinstance(answer, list | tuple):
        return [comparable(each) for each in answer]
    return pytest.approx(answer, abs=2e-5) if isinstance(answer, float) else answer


@pytest.fixture
def local() -> Iterator[QdrantClient]:
    client = QdrantClient(":memory:")
    yield client
    client.close()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("distance", list(Distance))
def test_random_work_has_the_answers_of_qdrants_client(
    client: QdrantClient, local: QdrantClient, distance: Distance, seed: int
) -> None:
    params = models.VectorParams(size=SIZE, distance=models.Distance(distance))
    twins = Twins(client, local, seed)
    for each in (client, local):
        if each.collection_exists("twins"):
            each.delete_collection("twins")
        each.create_collection("twins", vectors_config=params)
    steps: list[Callable[[], None]] = [
        twins.upsert,
        twins.upsert,
        twins.delete,
        twins.change_payload,
        twins.read,
        twins.search,
        twins.search,
        twins.search_batch,
    ]
    twins.upsert()

    for _ in range(STEPS):
        twins.random.choice(steps)()
