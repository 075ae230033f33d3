"""What one request asks of the shards of a collection, and how far it has come. How it is brought to them: `router`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from vectorizer_engine.distributed.operations import Operation
from vectorizer_engine.distributed.partial import Partial
from vectorizer_engine.distributed.performing import merged_result
from vectorizer_engine.errors import ShardsUnavailable, WriteInDoubt

PATIENCE = 10.0
"""So long a request waits for shards that move, in seconds."""


class Question:
    """One thread at a time may use it."""

    def __init__(
        self,
        token: str,
        name: str,
        operations: Mapping[int, Operation],
        *,
        copies: int,
        partial: Partial | None,
    ) -> None:
        """Of the collection of this *token* and *name*, by shard. For *copies* and *partial* see `Router.ask`."""
        self.token = token
        self.name = name
        self.copies = copies
        self.partial = partial
        self.operation = next(iter(operations.values()))
        gone = {} if partial is None else partial.missing
        self.pending = {shard: each for shard, each in operations.items() if shard not in gone}
        """Those that have not answered yet."""
        self.to_former: set[int] = set()
        """Of these, shards that their new owner has not got yet, or that cannot be asked."""
        self.crowded: set[int] = set()
        """And shards of members that do not answer, and for which enough others wait."""
        self.patience = PATIENCE if partial is None else partial.seconds
        self.deadline = time.monotonic() + self.patience
        self._results: list[Any] = []
        self._why: dict[int, str] = {}

    @property
    def writes(self) -> bool:
        return self.operation.writes

    @property
    def is_answered(self) -> bool:
        return not self.pending and (bool(self._results) or self.partial is None)

    @property
    def is_over(self) -> bool:
        """Whether there is nobody to be asked any more, or no time."""
        return not self.pending or time.monotonic() >= self.deadline

    def answered(self, shards: Iterable[int], result: Any) -> None:
        self._results.append(result)
        for shard in shards:
            del self.pending[shard]

    def put_off(self, shards: Iterable[int], why: str) -> None:
        """They have not answered this time."""
        self._why.update(dict.fromkeys(shards, why))

    def in_doubt(self, shards: Iterable[int], why: str) -> WriteInDoubt | None:
        """What to say where they were asked, and nobody knows what became of it. A read can be repeated."""
        self.put_off(shards, why)
        if not self.writes:
            return None
        return WriteInDoubt(
            f"{why}: whether it wrote to shards {_listed(shards)} is not known; send the write again"
        )

    def go_without(self, failed: Mapping[int, str]) -> None:
        """Leave these out of the answer, which may be partial."""
        assert self.partial is not None, "others raise what failed"
        self.partial.missing.update(failed)
        for shard in failed:
            self.pending.pop(shard, None)

    def wait_for_none_of_the_crowded(self) -> None:
        """Raises ShardsUnavailable, where the answer may not go without them."""
        why = {shard: self._why[shard] for shard in self.crowded}
        if self.partial is None:
            raise self._unavailable(why, within="")
        self.go_without(why)

    def answer(self) -> Any:
        """The merged result of those that have answered. Raises ShardsUnavailable where others must not be missing."""
        if self.pending and self.partial is not None:
            self.go_without(self._missing())
        if self._results and not self.pending:
            return merged_result(self.operation, self._results)
        raise self.unavailable()

    def unavailable(self, reason: str | None = None) -> ShardsUnavailable:
        """Why there is no answer: for one *reason*, or for what each shard has said."""
        missing = self._missing() if self.partial is None or reason else self.partial.missing
        return self._unavailable(
            missing if reason is None else dict.fromkeys(missing, reason),
            within=f" within {self.patience:g} s",
        )

    def _missing(self) -> dict[int, str]:
        return {shard: self._why.get(shard, "it is moving") for shard in self.pending}

    def _unavailable(self, why: Mapping[int, str], *, within: str) -> ShardsUnavailable:
        reasons = dict.fromkeys(why.values())
        told = "; ".join(
            f"shards {_listed(shard for shard, each in why.items() if each == reason)}: {reason}"
            for reason in reasons
        )
        return ShardsUnavailable(
            f"collection '{self.name}' cannot be served in full{within}: {told}; send the request again"
        )


def _listed(shards: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(shards)))
