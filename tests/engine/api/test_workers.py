"""The threads that run handlers: as many as are needed, results and errors back, nothing kept, a clean end."""

from __future__ import annotations

import asyncio
import threading
import weakref

import pytest

from vectorizer_engine.api.workers import Workers


def threads_of(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(name)]


async def test_results_and_errors_come_back_and_a_thread_is_used_again() -> None:
    workers = Workers(3, name="again")
    assert [await workers.run(divmod, 7, n) for n in (2, 3)] == [(3, 1), (2, 1)]
    with pytest.raises(ZeroDivisionError):
        await workers.run(divmod, 1, 0)
    assert len(threads_of("again")) == 1
    workers.close()


async def test_no_more_threads_run_than_allowed_and_the_rest_waits() -> None:
    workers = Workers(2, name="most")
    go = threading.Event()
    waiting = [workers.run(go.wait, 30) for _ in range(5)]
    assert len(threads_of("most")) == 2
    go.set()
    assert await asyncio.gather(*waiting) == [True] * 5
    workers.close()


async def test_what_nobody_waits_for_any_more_is_done_and_forgotten() -> None:
    workers = Workers(1, name="late")
    go = threading.Event()
    given_up = workers.run(go.wait, 30)
    given_up.cancel()
    go.set()
    assert await workers.run(int, "3") == 3
    workers.close()


async def test_a_thread_that_waits_keeps_nothing_of_its_last_task() -> None:
    class Body:
        """Something large."""

    workers = Workers(1, name="keeps")
    body = Body()
    gone = weakref.ref(body)
    assert await workers.run(isinstance, body, Body)
    del body
    for _ in range(1000):
        if gone() is None:
            break
        await asyncio.sleep(0.01)
    assert gone() is None
    workers.close()


def test_threads_end_when_they_are_closed_and_when_the_loop_has_ended() -> None:
    go = threading.Event()

    async def leave_one_running() -> Workers:
        workers = Workers(2, name="ending")
        running, waiting = workers.run(go.wait, 30), workers.run(go.wait, 30)
        never = workers.run(go.wait, 30)
        workers.close()
        assert not never.done()
        assert not running.done()
        assert not waiting.done()
        return workers

    asyncio.run(leave_one_running())
    go.set()
    for thread in threads_of("ending"):
        thread.join(10)
    assert threads_of("ending") == []
