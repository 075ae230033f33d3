"""The application without a process: states and failures that a healthy engine does not show."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from vectorizer_engine import errors
from vectorizer_engine.api import app as app_module
from vectorizer_engine.api import pace as pace_module
from vectorizer_engine.api.app import Application
from vectorizer_engine.api.auth import Access
from vectorizer_engine.api.bodies import RequestBudget
from vectorizer_engine.api.call import Call, Engine
from vectorizer_engine.api.pace import BRIEF_SECONDS, BRIEFER_SECONDS, PAGE_SECONDS, Effort, Pace
from vectorizer_engine.api.router import Route, Where
from vectorizer_engine.cache.memory_manager import CacheMemoryManager
from vectorizer_engine.collection.store import VectorStore
from vectorizer_engine.collection.types import CollectionParams, Distance
from vectorizer_engine.config import Config
from vectorizer_engine.metrics import Metrics, process_memory

LIMIT = 1024


@pytest.fixture
def recovering() -> Engine:
    """An engine that has not opened its data yet."""
    return Engine(
        config=Config(),
        memory=CacheMemoryManager(LIMIT),
        metrics=Metrics(),
        request_memory=RequestBudget(LIMIT),
        member_memory=RequestBudget(LIMIT),
    )


@pytest.fixture
async def http(recovering: Engine) -> AsyncIterator[httpx.AsyncClient]:
    application: Any = Application(recovering)
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
        yield client
    application.close()


async def test_an_engine_that_recovers_its_data_is_alive_but_not_ready(http: httpx.AsyncClient) -> None:
    assert (await http.get("/livez")).status_code == 200
    assert (await http.get("/readyz")).status_code == 503
    refused = await http.get("/collections")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert "recovering its data" in refused.json()["status"]["error"]
    assert "vectorizer_collections" not in (await http.get("/metrics")).text


def _raise(error: Exception) -> Callable[[Call], Any]:
    def handler(call: Call) -> Any:
        raise error

    return handler


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (errors.StorageFull("no space left for collection 'a'"), 507, "no space left"),
        (errors.StorageFailure("the disk does not answer"), 500, "the disk does not answer"),
        (errors.StoreClosed("the store is closed"), 503, "the store is closed"),
        (KeyError("secret detail"), 500, "internal error: the engine's log says more"),
    ],
)
async def test_failures_of_the_machine_have_their_status(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    recovering: Engine,
    error: Exception,
    status: int,
    says: str,
) -> None:
    async with serving(monkeypatch, recovering, _raise(error)) as client:
        answer = await client.get("/test")
    assert says in answer.json()["status"]["error"]
    assert answer.status_code == status
    assert "secret detail" not in answer.text
    assert bool(caplog.records) == (status == 500)


@pytest.mark.parametrize(
    "error", [errors.StorageFailure("cannot write to the log: No such file or directory"), None]
)
@pytest.mark.parametrize("made_again", [True, False])
async def test_a_call_whose_collection_is_deleted_meanwhile_finds_none(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    recovering: Engine,
    tmp_path: Path,
    made_again: bool,
    error: Exception | None,
) -> None:
    params = CollectionParams(2, Distance.DOT)
    store = recovering.recovered = VectorStore.open(tmp_path, memory=recovering.memory)
    store.create_collection("a", params)

    def handler(call: Call) -> Any:
        collection = call.collection
        store.delete_collection("a")
        if made_again:
            store.create_collection("a", params)
        if error is not None:
            raise error
        return collection.upsert([1], np.ones((1, 2), np.float32), [None])

    async with serving(monkeypatch, recovering, handler, "/collections/{collection}/test") as client:
        answer = await client.get("/collections/a/test")
    store.close()
    assert "collection 'a' does not exist" in answer.json()["status"]["error"]
    assert answer.status_code == 404
    assert caplog.records == []


async def test_a_disk_that_fails_below_a_collection_that_is_there_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, recovering: Engine, tmp_path: Path
) -> None:
    store = recovering.recovered = VectorStore.open(tmp_path, memory=recovering.memory)
    store.create_collection("a", CollectionParams(2, Distance.DOT))

    def handler(call: Call) -> Any:
        raise errors.StorageFailure(f"cannot write to the log of {call.collection.name}")

    async with serving(monkeypatch, recovering, handler, "/collections/{collection}/test") as client:
        answer = await client.get("/collections/a/test")
    store.close()
    assert answer.status_code == 500


async def test_a_reservation_that_can_never_fit_has_the_rules_body(
    monkeypatch: pytest.MonkeyPatch, recovering: Engine
) -> None:
    error = errors.CacheMemoryLimitExceeded(what="the batch", requested=2048, limit=LIMIT)
    async with serving(monkeypatch, recovering, _raise(error)) as client:
        answer = await client.get("/test")
    body = answer.json()
    assert (answer.status_code, body["code"], body["error"]) == (
        422,
        "CLUSTER_003",
        "CacheMemoryLimitExceeded",
    )
    assert body["details"]["current_value"] == 2048
    assert body["details"]["required_value"] == "1..1024 bytes"


async def test_a_request_with_a_timeout_is_answered_in_time(
    monkeypatch: pytest.MonkeyPatch, recovering: Engine
) -> None:
    release = threading.Event()
    async with serving(monkeypatch, recovering, lambda call: release.wait(30)) as client:
        late = await client.get("/test?timeout=1")
        release.set()
        in_time = await client.get("/test?timeout=1")
    assert (late.status_code, "not done within timeout=1" in late.text) == (408, True)
    assert (in_time.status_code, in_time.json()["result"]) == (200, True)


async def test_a_body_that_is_still_worked_on_after_its_timeout_stays_charged_until_that_ends(
    monkeypatch: pytest.MonkeyPatch, recovering: Engine
) -> None:
    release = threading.Event()
    async with serving(monkeypatch, recovering, lambda call: release.wait(30)) as client:
        late = await client.request("GET", "/test?timeout=1", content=b"x" * 100)
        assert (late.status_code, recovering.request_memory.used) == (408, 100)
        release.set()
        async with asyncio.timeout(20):
            while recovering.request_memory.used:
                await asyncio.sleep(0.001)


async def test_a_client_that_goes_away_gets_no_answer_and_is_no_error(
    recovering: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError("an answer was sent")

    headers = [(b"transfer-encoding", b"chunked")]
    path = b"/collections/a/points"
    scope = {"type": "http", "method": "PUT", "raw_path": path, "query_string": b"", "headers": headers}
    await Application(recovering)(scope, receive, send)
    assert caplog.records == []


async def test_brief_searches_need_no_thread(monkeypatch: pytest.MonkeyPatch, recovering: Engine) -> None:
    takes = 0.0

    def handler(call: Call) -> Any:
        until = time.thread_time() + takes
        while time.thread_time() < until:
            pass
        return threading.current_thread() is threading.main_thread()

    async with serving(monkeypatch, recovering, handler, "/{collection}", Where.SEARCHERS) as client:

        async def on_the_loop(body: str = "{}") -> bool:
            answer: bool = (await client.post("/a", content=body)).json()["result"]
            return answer

        async def several() -> int:
            return sum(await asyncio.gather(*(on_the_loop() for _ in range(5))))

        assert not await on_the_loop()  # nothing is known of the collection yet
        assert await on_the_loop()
        assert not await on_the_loop('{"filter": {}}')
        assert await several() == 5
        takes = (BRIEFER_SECONDS + BRIEF_SECONDS) / 2
        await on_the_loop()  # one has to be waited for before it is known
        assert await on_the_loop()
        assert await several() == 0, "what takes longer is worth several cores"
        takes = 0.1
        await on_the_loop()
        assert not await on_the_loop()
        takes = 0.0
        assert not await on_the_loop()


def test_what_is_known_of_collections_stays_bounded() -> None:
    pace = Pace()
    for i in range(5000):
        pace.note(("", f"c{i}"), 0.0)
    assert len(pace._seconds) <= 1000
    assert pace.is_brief(("", "c4999"), b"{}", alone=False)


def test_waiting_for_the_disk_is_an_effort_and_waiting_for_anything_else_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    effort = Effort()
    threading.Event().wait(0.01)
    assert effort.seconds() < PAGE_SECONDS
    reads = pace_module._disk_reads()
    monkeypatch.setattr(pace_module, "_disk_reads", lambda: reads + 3)
    assert effort.seconds() >= 3 * PAGE_SECONDS


@contextlib.asynccontextmanager
async def serving(
    monkeypatch: pytest.MonkeyPatch,
    engine: Engine,
    handler: Callable[[Call], Any],
    pattern: str = "/test",
    where: Where = Where.READERS,
) -> AsyncIterator[httpx.AsyncClient]:
    """The application with one route."""
    route = Route(
        method="POST" if where is Where.SEARCHERS else "GET",
        pattern=pattern,
        handler=handler,
        access=Access.READ,
        where=where,
        parameters=frozenset({"timeout"}),
    )
    monkeypatch.setattr(app_module, "ROUTES", (route,))
    application: Any = Application(engine)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(application), base_url="http://engine"
    ) as client:
        yield client
    application.close()


def test_without_linuxs_accounting_there_are_no_figures_of_the_process(tmp_path: Any) -> None:
    assert process_memory(tmp_path / "status") is None
    figures = process_memory()
    assert figures is None or figures.anonymous > 1_000_000
