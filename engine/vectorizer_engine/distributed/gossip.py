"""Passing topologies on among the members, beside the requests and never in their way.

Each answer of a member tells the version that it knows. Who knows less gets the newer topology, or is asked for it; and
where a request waits for shards that moved, all are asked. One thread does this, so that members which do not answer
keep nobody waiting, and many waiting requests ask no more than one.
"""

from __future__ import annotations

import logging
import threading

import msgspec

from vectorizer_engine.distributed.messages import TOPOLOGY_PATH
from vectorizer_engine.distributed.peers import Answer, NotAnswered, NotSent, Peers
from vectorizer_engine.distributed.topology import KnownTopology, Member, topology_decoder
from vectorizer_engine.errors import EngineError

logger = logging.getLogger(__name__)

ASK_SECONDS = 1.0
"""How long a member may take to answer."""

LOOK_SECONDS = 0.2
"""Between two rounds of questions to all."""


class Gossip:
    """Any thread may call."""

    def __init__(self, name: str, topology: KnownTopology, peers: Peers) -> None:
        """*name* is this member's."""
        self._name = name
        self._topology = topology
        self._peers = peers
        # Guards the rest.
        self._news = threading.Condition()
        self._heard: dict[Member, int] = {}
        self._look = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gossip", daemon=True)
        self._thread.start()

    def heard(self, member: Member, version: int) -> None:
        """*member* knows the topology of *version*."""
        if version != self._topology.current.version:
            with self._news:
                self._heard[member] = version
                self._news.notify()

    def look(self) -> None:
        """Ask all whether they know a newer one, soon."""
        with self._news:
            self._look = True
            self._news.notify()

    def tell(self, path: str) -> bool:
        """POST to each other member. Whether all have answered; the others will find out by themselves."""
        return all(answer is not None and answer.status == 200 for answer in self._ask_others("POST", path))

    def close(self) -> None:
        self._closed.set()
        with self._news:
            self._news.notify()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.is_set():
            with self._news:
                self._news.wait_for(lambda: self._heard or self._look or self._closed.is_set())
                heard, self._heard = self._heard, {}
                look, self._look = self._look, False
            for member, version in heard.items():
                self._exchange(member, version)
            if look:
                for answer in self._ask_others("GET", TOPOLOGY_PATH):
                    if answer is not None:
                        self._take(answer)
                self._closed.wait(LOOK_SECONDS)

    def _exchange(self, member: Member, version: int) -> None:
        current = self._topology.current
        try:
            if version > current.version:
                self._take(self._peers.ask(member, "GET", TOPOLOGY_PATH, seconds=ASK_SECONDS))
            elif version < current.version:
                body = msgspec.json.encode(current)
                self._peers.ask(member, "PUT", TOPOLOGY_PATH, body, seconds=ASK_SECONDS)
        except (NotSent, NotAnswered) as error:
            logger.info("the topology was not exchanged with %s: %s", member.name, error)

    def _take(self, answer: Answer) -> None:
        if answer.status != 200:
            return
        try:
            self._topology.adopt(topology_decoder.decode(answer.body))
        except (EngineError, msgspec.MsgspecError) as error:
            logger.warning("no topology was taken: %s", error)

    def _ask_others(self, method: str, path: str) -> list[Answer | None]:
        others = self._topology.current.others(self._name)
        return self._peers.ask_each(others, method, path, seconds=ASK_SECONDS)
