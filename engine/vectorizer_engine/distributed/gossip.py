"""Passing topologies on among the members, beside the requests and never in their way.

Each answer of a member tells the version that it knows. Who knows less gets the newer topology, or is asked for it; and
where a request waits for shards that moved, all are asked. One thread does this, so that members which do not answer
keep nobody waiting, and many waiting requests ask no more than one.
"""

from __future__ import annotations

import logging
import threading

import msgspec

from vectorizer_engine.distributed.peers import Asked, NotAnswered, NotSent, Peers
from vectorizer_engine.distributed.topology import KnownTopology, Member, Topology
from vectorizer_engine.errors import EngineError

logger = logging.getLogger(__name__)

TOPOLOGY_PATH = "/internal/topology"

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
        asked = [self._send(member, "POST", path) for member in self._others()]
        answered = [each is not None and _answered(each) for each in asked]  # all are read
        return all(answered)

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
                self._ask_all()
                self._closed.wait(LOOK_SECONDS)

    def _exchange(self, member: Member, version: int) -> None:
        current = self._topology.current
        try:
            if version > current.version:
                self._take(self._peers.send(member, "GET", TOPOLOGY_PATH, b"", seconds=ASK_SECONDS))
            elif version < current.version:
                body = msgspec.json.encode(current)
                self._peers.ask(member, "PUT", TOPOLOGY_PATH, body, seconds=ASK_SECONDS)
        except (NotSent, NotAnswered) as error:
            logger.info("the topology was not exchanged with %s: %s", member.name, error)

    def _ask_all(self) -> None:
        for asked in [self._send(member, "GET", TOPOLOGY_PATH) for member in self._others()]:
            if asked is not None:
                self._take(asked)

    def _take(self, asked: Asked) -> None:
        try:
            answer = asked.answer()
            if answer.status == 200:
                self._topology.adopt(msgspec.json.decode(answer.body, type=Topology))
        except (NotAnswered, EngineError, msgspec.MsgspecError) as error:
            logger.warning("no topology was taken: %s", error)

    def _send(self, member: Member, method: str, path: str) -> Asked | None:
        try:
            return self._peers.send(member, method, path, b"", seconds=ASK_SECONDS)
        except (NotSent, NotAnswered) as error:
            logger.info("%s was not asked: %s", member.name, error)
            return None

    def _others(self) -> list[Member]:
        topology = self._topology.current
        known = {member.name: member for member in (*topology.previous, *topology.members)}
        return [member for name, member in known.items() if name != self._name]


def _answered(asked: Asked) -> bool:
    try:
        return asked.answer().status == 200
    except NotAnswered as error:
        logger.warning("a member did not confirm what it was told: %s", error)
        return False
