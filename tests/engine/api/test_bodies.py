"""The byte budget of request bodies, which the event loop shares out."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from tests.kube.eventually import eventually
from vectorizer_engine.api.bodies import Body, ClientDisconnected, RequestMemory, WriteMemory
from vectorizer_engine.api.errors import HttpError


def receiving(*pieces: bytes, disconnect: bool = False) -> Any:
    """An ASGI receive that brings *pieces*, then nothing more or the end of the connection."""
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    if disconnect:
        messages.append({"type": "http.disconnect"})
    else:
        messages[-1]["more_body"] = False

    async def receive() -> Any:
        return messages.pop(0)

    return receive


def body(memory: RequestMemory, *pieces: bytes, length: int | None = None, **options: Any) -> Body:
    return Body(receiving(*pieces, **options), length=length, largest=100, memory=memory)


async def test_a_body_holds_its_share_until_it_is_done() -> None:
    memory = RequestMemory(100)
    async with body(memory, b"ab", b"c", length=3) as whole:
        assert (whole, memory.used) == (b"abc", 3)
    assert memory.used == 0


async def test_a_body_in_chunks_holds_what_has_come_so_far() -> None:
    memory = RequestMemory(100)
    async with body(memory, b"a" * 40, b"b" * 40) as whole:
        assert (len(whole), memory.used) == (80, 80)
    assert memory.used == 0


@pytest.mark.parametrize("length", [None, 101])
async def test_a_body_over_the_limit_is_refused_and_holds_nothing(length: int | None) -> None:
    memory = RequestMemory(1000)
    with pytest.raises(HttpError) as refusal:
        async with body(memory, b"a" * 60, b"b" * 60, length=length):
            pass
    assert (refusal.value.status, memory.used) == (413, 0)


async def test_a_client_that_goes_away_leaves_nothing_held() -> None:
    memory = RequestMemory(100)
    with pytest.raises(ClientDisconnected):
        async with body(memory, b"a", length=50, disconnect=True):
            pass
    assert memory.used == 0


@pytest.mark.parametrize("length", [None, 10])
async def test_a_client_that_is_too_slow_is_refused_however_little_it_sends(
    monkeypatch: pytest.MonkeyPatch, length: int | None
) -> None:
    monkeypatch.setattr("vectorizer_engine.api.bodies.READ_SECONDS", 0.01)
    memory = RequestMemory(100)

    async def never() -> Any:
        await asyncio.Event().wait()

    with pytest.raises(HttpError) as refusal:
        async with Body(never, length=length, largest=100, memory=memory):
            pass
    assert (refusal.value.status, memory.used) == (408, 0)


async def test_a_request_waits_for_its_share_and_then_gets_it() -> None:
    memory = RequestMemory(100)
    await memory.reserve(80)
    waiting = [asyncio.create_task(memory.reserve(30)), asyncio.create_task(memory.reserve(10))]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)  # first come, first served: 10 does not overtake 30
    memory.release(80)
    await asyncio.gather(*waiting)
    assert memory.used == 40


async def test_a_wait_in_vain_ends_with_429_and_lets_the_next_one_in() -> None:
    memory = RequestMemory(100, wait_seconds=0.2)
    await memory.reserve(80)
    too_big = asyncio.create_task(memory.reserve(30))
    await asyncio.sleep(0.1)
    fits = asyncio.create_task(memory.reserve(20))
    with pytest.raises(HttpError) as refusal:
        await too_big
    await fits
    assert (refusal.value.status, refusal.value.headers, memory.used) == (429, ((b"retry-after", b"1"),), 100)


@pytest.mark.parametrize("granted_first", [True, False])
@pytest.mark.parametrize("cancelled_first", [True, False])
async def test_a_cancelled_wait_leaves_no_trace(granted_first: bool, cancelled_first: bool) -> None:
    memory = RequestMemory(100)
    await memory.reserve(100)
    waiting = asyncio.create_task(memory.reserve(50))
    await asyncio.sleep(0)
    if cancelled_first:
        waiting.cancel()
    if granted_first:
        memory.release(100)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert memory.used == (0 if granted_first else 100)
    memory.release(memory.used)
    await memory.reserve(100)


def test_what_is_larger_than_all_write_memory_has_it_alone_and_is_not_passed_by_smaller_ones() -> None:
    memory = WriteMemory(100)
    order: list[str] = []

    def large() -> None:
        with memory.room(1000):
            order.append(f"large, {memory.used} held")

    def small() -> None:
        with memory.room(10):
            order.append("small")

    threads = [threading.Thread(target=large), threading.Thread(target=small)]
    with memory.room(60), memory.room(40):
        threads[0].start()
        eventually(lambda: memory.is_awaited)
        threads[1].start()
        assert order == []
    for thread in threads:
        thread.join()
    assert order == ["large, 100 held", "small"]
    assert memory.used == 0
