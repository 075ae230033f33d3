"""A batch is answered in its order, whoever answered which part of it."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from vectorizer_engine.collection import batch
from vectorizer_engine.collection.batch import ROWS_AT_ONCE, spread
from vectorizer_engine.index.base import Vectors

QUERIES = np.arange(10 * ROWS_AT_ONCE + 3, dtype=np.float32).reshape(-1, 1)


@pytest.fixture(autouse=True)
def helpers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "CORES", 2)


def test_answers_come_in_the_order_of_the_queries_from_several_threads() -> None:
    both = threading.Barrier(2, timeout=20)
    threads = set()

    def work(rows: Vectors) -> list[float]:
        if threading.get_ident() not in threads:
            threads.add(threading.get_ident())
            both.wait()  # nobody goes on before the other has begun
        return rows[:, 0].tolist()

    assert spread(work, QUERIES) == QUERIES[:, 0].tolist()
    assert len(threads) == 2


def test_a_batch_is_answered_though_every_helper_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    end = threading.Event()
    busy = [batch._helpers.submit(end.wait, 20) for _ in range(batch._helpers._max_workers)]
    assert spread(lambda rows: rows[:, 0].tolist(), QUERIES) == QUERIES[:, 0].tolist()
    end.set()
    assert all(each.result() for each in busy)


@pytest.mark.parametrize("count", [17, 32, 33, 50, 100])
def test_every_core_gets_as_many_pieces_of_one_size(count: int) -> None:
    sizes: list[int] = []

    def work(rows: Vectors) -> list[float]:
        sizes.append(len(rows))
        return rows[:, 0].tolist()

    spread(work, QUERIES[:count])
    assert len(sizes) % 2 == 0
    assert max(sizes) <= ROWS_AT_ONCE
    assert max(sizes) - min(sizes) < len(sizes)


def test_few_queries_and_those_of_a_single_core_stay_in_their_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []

    def work(rows: Vectors) -> list[int]:
        seen.append((threading.get_ident(), len(rows)))
        return [0] * len(rows)

    spread(work, QUERIES[:ROWS_AT_ONCE])
    monkeypatch.setattr(batch, "CORES", 1)
    spread(work, QUERIES)
    assert seen == [(threading.get_ident(), ROWS_AT_ONCE), (threading.get_ident(), len(QUERIES))]


@pytest.mark.parametrize("failing", [0, len(QUERIES) - 1])
def test_what_fails_is_told_whoever_came_to_it(failing: int) -> None:
    def work(rows: Vectors) -> list[float]:
        if failing in rows:
            raise ValueError(f"row {failing}")
        return rows[:, 0].tolist()

    with pytest.raises(ValueError, match=f"row {failing}"):
        spread(work, QUERIES)
    assert len(spread(lambda rows: rows.tolist(), QUERIES)) == len(QUERIES)
