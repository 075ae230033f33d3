"""The queue on a real event loop: bounded, one round a key, stopped at once."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from vectorizer_operator.controller.queue import CONCURRENT_ROUNDS, ReconcileQueue, Work
from vectorizer_operator.kube.errors import ApiError, Conflict, TooManyRequests


@asynccontextmanager
async def running(queue: ReconcileQueue[str], work: Work[str]) -> AsyncIterator[None]:
    task = asyncio.create_task(queue.run(work))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition: asyncio.Event) -> None:
    async with asyncio.timeout(10):
        await condition.wait()


async def test_keys_added_before_and_while_it_runs_are_all_worked() -> None:
    queue: ReconcileQueue[str] = ReconcileQueue()
    wanted = {"before", "while", "from inside"}
    seen: set[str] = set()
    all_seen = asyncio.Event()

    async def work(key: str) -> None:
        if key == "while":
            queue.add("from inside")
        seen.add(key)
        if seen == wanted:
            all_seen.set()

    queue.add("before")
    assert queue.depth == 1
    async with running(queue, work):
        queue.add("while")
        await until(all_seen)
    assert queue.depth == 0


async def test_no_more_rounds_run_at_once_than_allowed_and_never_two_of_one_key() -> None:
    queue: ReconcileQueue[str] = ReconcileQueue()
    at_work: Counter[str] = Counter()
    most = 0
    rounds = 0
    enough = asyncio.Event()

    async def work(key: str) -> None:
        nonlocal most, rounds
        at_work[key] += 1
        assert at_work[key] == 1
        most = max(most, at_work.total())
        queue.add(key)
        await asyncio.sleep(0)
        at_work[key] -= 1
        rounds += 1
        if rounds > 500:
            enough.set()

    for number in range(3 * CONCURRENT_ROUNDS):
        queue.add(str(number))
    async with running(queue, work):
        await until(enough)
    assert most == CONCURRENT_ROUNDS


async def test_a_round_that_asks_to_be_repeated_is() -> None:
    queue: ReconcileQueue[str] = ReconcileQueue()
    rounds = 0
    again = asyncio.Event()

    async def work(_: str) -> float | None:
        nonlocal rounds
        rounds += 1
        if rounds == 2:
            again.set()
            return None
        return 0.01

    queue.add("a")
    async with running(queue, work):
        await until(again)


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (Conflict("PUT x", 409, "Conflict", "modified"), "INFO"),
        (ApiError("GET x", 500, "InternalError", "no"), "WARNING"),
        (ValueError("a bug"), "ERROR"),
    ],
)
async def test_a_failing_round_is_reported_and_tried_again_without_stopping_the_others(
    error: Exception, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    failures: list[tuple[str, BaseException]] = []
    queue: ReconcileQueue[str] = ReconcileQueue(on_failure=lambda key, error: failures.append((key, error)))
    rounds: Counter[str] = Counter()
    recovered = asyncio.Event()

    async def work(key: str) -> None:
        rounds[key] += 1
        if key == "bad" and rounds[key] == 1:
            raise error
        if rounds["bad"] == 2 and rounds["good"]:
            recovered.set()

    caplog.set_level("INFO")
    queue.add("bad")
    queue.add("good")
    async with running(queue, work):
        await until(recovered)
    assert failures == [("bad", error)]
    assert [record.levelname for record in caplog.records] == [level]
    assert "bad" in caplog.text


async def test_a_server_that_asks_to_wait_is_not_asked_again_before() -> None:
    queue: ReconcileQueue[str] = ReconcileQueue()
    loop = asyncio.get_running_loop()
    times: list[float] = []
    twice = asyncio.Event()

    async def work(_: str) -> None:
        times.append(loop.time())
        if len(times) == 2:
            twice.set()
            return
        raise TooManyRequests("PATCH x", 429, "TooManyRequests", "slow down", retry_after=0.5)

    queue.add("a")
    async with running(queue, work):
        await until(twice)
    assert times[1] - times[0] >= 0.5


async def test_when_it_is_stopped_the_rounds_stop_and_their_keys_stay_due() -> None:
    queue: ReconcileQueue[str] = ReconcileQueue()
    started = asyncio.Event()

    async def work(_: str) -> None:
        started.set()
        await asyncio.Event().wait()

    queue.add("a")
    async with running(queue, work):
        await until(started)
        assert queue.longest_round >= 0.0
    assert queue.depth == 1
    assert queue.longest_round == 0.0
