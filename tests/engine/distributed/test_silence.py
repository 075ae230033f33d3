"""Few wait for a member that does not answer, and the others are told at once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.engine.distributed.pods import Pods
from tests.engine.distributed.test_partial import POINTS, SHARDS, ask, missing, started
from tests.engine.storage.test_object_log import Clock
from vectorizer_engine.api.app import WAITERS
from vectorizer_engine.distributed.operations import shard_of
from vectorizer_engine.distributed.question import PATIENCE
from vectorizer_engine.distributed.silence import MOST_WAITING, SILENT_SECONDS, Silence, TooManyWait
from vectorizer_engine.storage.keys import encode_id

__all__ = ["missing", "started"]  # fixtures


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def crowd(clock: Clock) -> Iterator[tuple[Silence, ExitStack]]:
    """As many wait for a member as may, which has been silent for long enough."""
    silence = Silence(clock=clock)
    with ExitStack() as waits:
        for _ in range(MOST_WAITING):
            waits.enter_context(silence.waiting_for("pod-1"))
        clock.now += SILENT_SECONDS + 0.1
        yield silence, waits


def test_one_more_does_not_wait_for_a_silent_member(crowd: tuple[Silence, ExitStack]) -> None:
    silence, _ = crowd
    with pytest.raises(TooManyWait, match="pod-1 has answered nobody"):
        silence.waiting_for("pod-1").__enter__()
    with silence.waiting_for("pod-2"):
        """That one is another."""


def test_any_number_waits_for_a_member_that_answers_somebody_now_and_then(
    crowd: tuple[Silence, ExitStack],
) -> None:
    silence, waits = crowd
    silence.heard("pod-1")
    for _ in range(10 * MOST_WAITING):
        waits.enter_context(silence.waiting_for("pod-1"))
    assert not silence.is_crowded("pod-1")


def test_who_waits_already_gives_up_where_there_are_too_many(clock: Clock) -> None:
    silence = Silence(clock=clock)
    with ExitStack() as waits:
        for _ in range(MOST_WAITING + 1):
            waits.enter_context(silence.waiting_for("pod-1"))
        assert not silence.is_crowded("pod-1")
        clock.now += SILENT_SECONDS + 0.1
        assert silence.is_crowded("pod-1")


def test_when_nobody_waits_any_more_the_member_is_asked_again(crowd: tuple[Silence, ExitStack]) -> None:
    silence, waits = crowd
    waits.close()
    with silence.waiting_for("pod-1"):
        assert not silence.is_crowded("pod-1")


def test_a_frozen_member_does_not_keep_others_from_being_served(started: Pods, missing: set[int]) -> None:
    mine = next(each for each in range(POINTS) if shard_of(encode_id(each), SHARDS) not in missing)
    with ThreadPoolExecutor(WAITERS + 10) as clients:
        waiting = [clients.submit(ask, started, "count", {}) for _ in range(WAITERS + 10)]
        began = time.monotonic()
        answer = ask(started, "", {"ids": [mine]})
        assert answer.status_code == 200
        assert time.monotonic() - began < PATIENCE - 2
        answers = [each.result() for each in waiting]
    assert {each.status_code for each in answers} == {503}
    assert any("has answered nobody" in each.text for each in answers)
