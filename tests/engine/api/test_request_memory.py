"""What writes in flight take besides the caches: bodies, and what is made of them on the way to the log."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.engine.api.test_answers import MIB
from tests.engine.fixtures import StartEngine

DIMENSION = 384
POINTS = 500


@pytest.mark.parametrize("batched", [False, True], ids=["points", "a batch of operations"])
def test_resident_memory_stays_within_the_budget_whatever_is_written(
    make_engine: StartEngine, batched: bool
) -> None:
    budget, cache = 16 * MIB, 16 * MIB
    engine = make_engine(
        {"server": {"request_memory_bytes": budget}, "cluster": {"max_cache_memory_bytes": cache}}
    ).start()
    numbers = np.random.default_rng(1).standard_normal((POINTS, DIMENSION)).round(2).tolist()
    points = [
        {"id": row, "vector": vector, "payload": {"tags": [{"n": row}] * 20}}
        for row, vector in enumerate(numbers)
    ]
    body = json.dumps({"operations": [{"upsert": {"points": points}}]} if batched else {"points": points})
    method, path = ("POST", "/batch") if batched else ("PUT", "")

    def send(_: int) -> int:
        with engine.http() as http:
            return http.request(method, f"/collections/c/points{path}?wait=true", content=body).status_code

    with engine.http() as http, ThreadPoolExecutor(24) as senders:
        http.put("/collections/c", json={"vectors": {"size": DIMENSION, "distance": "Cosine"}})
        assert send(0) == 200  # so that code and thread stacks are there
        idle = engine.anonymous_bytes
        sent = [senders.submit(send, number) for number in range(72)]
        peak = idle
        while not all(each.done() for each in sent):
            peak = max(peak, engine.anonymous_bytes)
        assert {each.result() for each in sent} == {200}
        ledger = http.get("/cluster/memory").json()["result"]["ledger"]
    beside = 4 * MIB  # what connections have read ahead, and sealing
    assert peak - idle < 1.05 * (budget + ledger["peak_bytes"]) + beside
