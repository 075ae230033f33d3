"""The webhook's HTTP side: what is answered to what the API server, or anybody else, sends."""

from collections import Counter
from collections.abc import AsyncIterator

import aiohttp
import pytest

from vectorizer_operator.webhook import server

REVIEW = {
    "request": {"uid": "u-1", "object": {"spec": {"replicas": 2, "storage": {"type": "memory"}}}},
}


@pytest.fixture
def counted() -> Counter[str]:
    return Counter()


@pytest.fixture
async def url(counted: Counter[str]) -> AsyncIterator[str]:
    runner = await server.serve(server.application(counted.update), host="127.0.0.1", port=0)
    host, port = runner.addresses[0]
    yield f"http://{host}:{port}{server.PATH}"
    await runner.cleanup()


async def test_a_review_is_answered_and_each_broken_rule_counted(url: str, counted: Counter[str]) -> None:
    async with aiohttp.ClientSession() as session, session.post(url, json=REVIEW) as answer:
        assert answer.status == 200
        assert (await answer.json())["response"]["allowed"] is False
    assert counted == {"CLUSTER_001": 1, "CLUSTER_004": 1}


@pytest.mark.parametrize("body", ["", "not JSON", "[]", "{}"])
async def test_what_is_no_review_is_refused_with_a_reason(url: str, counted: Counter[str], body: str) -> None:
    async with aiohttp.ClientSession() as session, session.post(url, data=body) as answer:
        assert answer.status == 400
        assert (await answer.text()).strip()
    assert counted == {"malformed": 1}


async def test_a_body_larger_than_any_review_is_refused(url: str) -> None:
    body = b" " * (server.LARGEST_REVIEW + 1)
    async with aiohttp.ClientSession() as session, session.post(url, data=body) as answer:
        assert answer.status == 413


async def test_only_the_one_path_is_served(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.get(url) as answer:
            assert answer.status == 405
        async with session.post(url + "/else") as answer:
            assert answer.status == 404


async def test_a_taken_port_is_an_error(url: str) -> None:
    port = int(url.split(":")[2].split("/")[0])
    with pytest.raises(OSError, match="in use"):
        await server.serve(server.application(Counter().update), host="127.0.0.1", port=port)
