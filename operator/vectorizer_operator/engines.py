"""What the operator asks and tells the engines of a cluster whose pods share a store: who serves it.

Over plain HTTP, at the pods' addresses, with the cluster's own key. An engine that does not answer is no failure of
ours: it is reported as such, and told at another time.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable
from typing import Any

import aiohttp

from vectorizer_operator.plan import Engine, Member, PublishTopology

logger = logging.getLogger(__name__)

PATH = "/internal/topology"

ANSWER_SECONDS = 1.0
"""An engine answers from its memory, also while it works; who takes longer is frozen or cut off."""

CONNECTIONS = 64


class Engines:
    """Asks engines, whosever they are. To be used inside one event loop."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, members: Iterable[Member], *, key: str) -> dict[str, Engine | None]:
        """What the engine of each pod says, None where it does not answer, by the pod's name."""
        asked = list(members)
        answers = await asyncio.gather(*(self._ask(member, key) for member in asked))
        return {member.name: answer for member, answer in zip(asked, answers, strict=True)}

    async def publish(self, topology: PublishTopology, *, key: str) -> None:
        """Tell the engines that are to be told. Who does not hear it is told again, when that is seen."""
        body = {
            "version": topology.version,
            "members": [member._asdict() for member in topology.members],
            "previous": [member._asdict() for member in topology.previous],
        }
        await asyncio.gather(*(self._request("PUT", member, key, body) for member in topology.to))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None  # the replica may lead again

    async def _ask(self, member: Member, key: str) -> Engine | None:
        answer = await self._request("GET", member, key)
        if answer is None:
            return None
        members, previous = (
            tuple(Member(each["name"], each["address"]) for each in answer[of])
            for of in ("members", "previous")
        )
        return Engine(answer["version"], members, answer["waiting"], answer["leaving"], previous)

    async def _request(self, method: str, member: Member, key: str, body: Any = None) -> Any:
        """The JSON of the answer, None where there is none or it is a refusal."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=CONNECTIONS),
                timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS),
            )
        try:
            async with self._session.request(
                method, f"http://{member.address}{PATH}", json=body, headers={"api-key": key}
            ) as answer:
                content = await answer.read()
        except (aiohttp.ClientError, TimeoutError):
            return None
        if answer.status >= 400:
            logger.warning(
                "engine %s: %s %s: %d %s",
                member.name,
                method,
                PATH,
                answer.status,
                content[:500].decode(errors="replace"),
            )
            return None
        return json.loads(content)
