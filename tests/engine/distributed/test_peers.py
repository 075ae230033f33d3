"""Requests to members that answer, do not answer, close the connection, or are not there."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from vectorizer_engine.distributed import peers as peers_module
from vectorizer_engine.distributed.peers import NotAnswered, NotSent, Peers
from vectorizer_engine.distributed.topology import Member

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
LAST_ANSWER = ANSWER.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")


@contextmanager
def member(*answers: bytes | None) -> Iterator[Member]:
    """One that gives these answers, one for each request; None closes the connection instead."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ended = threading.Event()

        def serve() -> None:
            rest = list(answers)
            while rest:
                connection, _ = listener.accept()
                with connection:
                    while rest and connection.recv(65536):
                        if (answer := rest.pop(0)) is None:
                            return
                        connection.sendall(answer)
                        if answer == LAST_ANSWER:
                            break
                    if not rest:
                        ended.wait(20)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield Member("other", f"127.0.0.1:{listener.getsockname()[1]}")
        finally:
            ended.set()
            thread.join()


@pytest.fixture
def peers() -> Iterator[Peers]:
    asking = Peers("key")
    yield asking
    asking.close()


def test_a_connection_is_used_again_and_one_that_was_closed_is_not(peers: Peers) -> None:
    with member(ANSWER, LAST_ANSWER, ANSWER) as other:
        for _ in range(3):
            assert peers.ask(other, "GET", "/", seconds=20) == (200, b"ok")


def test_a_connection_that_was_idle_for_long_is_not_used_again(
    peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    with member(LAST_ANSWER.replace(b"close", b"keep"), ANSWER) as other:
        assert peers.ask(other, "GET", "/", seconds=20).status == 200
        monkeypatch.setattr(peers_module, "IDLE_SECONDS", 0.0)
        assert peers.ask(other, "GET", "/", seconds=20).status == 200


def test_whether_a_request_may_have_been_carried_out_is_told_apart(peers: Peers) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = Member("nobody", f"127.0.0.1:{closed.getsockname()[1]}")
    with pytest.raises(NotSent):
        peers.ask(nobody, "GET", "/", seconds=20)
    with member(None) as other, pytest.raises(NotAnswered, match="other at 127"):
        peers.ask(other, "POST", "/", b"body", seconds=20)


def test_an_answer_is_waited_for_no_longer_than_it_may_take(peers: Peers) -> None:
    with member(b"") as other, pytest.raises(NotAnswered, match="did not answer in time"):
        peers.ask(other, "GET", "/", seconds=0.1)


def test_waiting_ends_as_soon_as_there_is_no_reason_to_wait(peers: Peers) -> None:
    """A frozen member's requests go elsewhere when its replacement is known."""
    replaced = threading.Event()
    threading.Timer(0.1, replaced.set).start()
    with member(b"") as other:
        asked = peers.send(other, "GET", "/", b"", seconds=60)
        began = time.monotonic()
        with pytest.raises(NotAnswered):
            asked.answer(within=lambda: 0.0 if replaced.is_set() else 60.0)
        assert time.monotonic() - began < 30
