"""A log whose records are objects of a shared store. Opening one takes it over: whoever wrote before is fenced.

The protocol, its proof and what each failure leaves are in docs/specs/SHARED_STORE.md; the bytes are in
`object_frame`. Here is the side of the owner. What is checkpointed is not the log's affair.
"""

from __future__ import annotations

import logging
import secrets
import time
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from vectorizer_engine.errors import Fenced, StoreCorrupt
from vectorizer_engine.storage.garbage import Garbage
from vectorizer_engine.storage.log import InDoubt, Record
from vectorizer_engine.storage.log_objects import frame_name, list_frames, no_frames, read_frame
from vectorizer_engine.storage.object_frame import (
    NO_CHECKPOINT,
    Checkpoint,
    Frame,
    Kind,
    decode_checkpoint,
    decode_frame,
    encode_checkpoint,
    encode_frame,
    encode_records,
)
from vectorizer_engine.storage.object_store import (
    PATIENCE,
    ObjectExists,
    ObjectMissing,
    ObjectStore,
    Refused,
    repeated,
)
from vectorizer_engine.storage.read_ahead import read_ahead

logger = logging.getLogger(__name__)

_CROWDED = 2000
"""After so many appends, however small, the head should be sealed: each is a request when the log is replayed.
Sixteen at a time, 2,000 take about 2 s at 15 ms each."""

_NOBODY = bytes(16)


ObserveFrame = Callable[[int, int], None]
"""Is told the number of each frame of a log that its owner has made, and its size."""


class Succession(NamedTuple):
    """Who opens a log. `predecessor` is a writer that is known to have stopped to serve reads as well."""

    writer: bytes
    predecessor: bytes | None = None
    observe: ObserveFrame | None = None


def new_writer(*, after: bytes | None = None, observe: ObserveFrame | None = None) -> Succession:
    """Somebody who has never written before."""
    return Succession(secrets.token_bytes(16), after, observe)


class ObjectLog:
    """The log at *prefix*, which `create` made, claimed for this process.

    One thread at a time may use it, but for `confirm`.
    """

    def __init__(
        self,
        store: ObjectStore,
        prefix: str,
        *,
        garbage: Garbage,
        patience: float = PATIENCE,
        lease: float = 0.0,
        succession: Succession | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Claim the log. Raises StoreCorrupt, Fenced where somebody else claims it meanwhile, and OSError.

        Nothing is appended or confirmed before *lease* seconds have passed: so long a former owner that does not know
        of this one may answer reads without asking the store (see `confirm`), by what it knew. There is nothing to
        wait for where nobody has ever owned the log, or only the one that *succession* knows to have let go.
        """
        self._store = store
        self._prefix = f"{prefix}/log"
        self._garbage = garbage
        self._patience = patience
        self._clock = clock
        succession = succession or new_writer()
        self._writer = succession.writer
        self._observe = succession.observe
        self._fenced = False
        self._doubt: InDoubt | None = None
        self._checkpoint_in_doubt = False
        self._confirmed_at = 0.0
        self.replayed = False
        """Whether all of it was read since it was opened. No checkpoint can be written before that."""
        sizes, last_writer, claim = repeated(self._try_to_claim, patience=patience)
        may_be_read = last_writer not in (_NOBODY, succession.predecessor)
        self._serves_from = clock() + (lease if may_be_read else 0.0)
        self._sleep = sleep
        self._next_frame, self._next_record = claim.number + 1, claim.first
        self._last_checkpoint = claim.checkpoint
        self._checkpoint = NO_CHECKPOINT
        if claim.checkpoint:
            self._checkpoint = decode_checkpoint(self._read(claim.checkpoint))
        self._start = self._rolled_at = self._checkpoint.start
        self._claims = {*self._checkpoint.claims, claim.number}
        # One entry for each frame from `start` on. The numbers of the first records are learned in the replay.
        needed = range(self._start, claim.number)
        self._sizes = array("Q", [self._size_of(number, sizes) for number in needed])
        self._firsts = array("Q", bytes(8 * len(needed)))
        self._advance(claim, len(encode_frame(claim)))
        leftovers = (number for number in sizes if number < self._start and number not in self._claims)
        garbage.add([self._name(number) for number in leftovers])

    @staticmethod
    def create(store: ObjectStore, prefix: str) -> None:
        """Make an empty log: one claim, of nobody. A log without any object has lost them. Raises OSError."""
        first = Frame(Kind.CLAIM, 1, 1, 0, 0, _NOBODY, b"")

        def attempt() -> None:
            try:
                store.create(frame_name(f"{prefix}/log", 1), encode_frame(first))
            except ObjectExists:  # by an earlier attempt: nobody else knows the prefix
                return

        repeated(attempt)

    @property
    def next_number(self) -> int:
        return self._next_record

    @property
    def writer(self) -> str:
        """Tells this opening of the log from every other."""
        return self._writer.hex()

    @property
    def checkpoint(self) -> Checkpoint:
        """The last one, which is empty at first."""
        return self._checkpoint

    @property
    def crowded(self) -> bool:
        return self._next_frame - self._rolled_at >= _CROWDED

    @property
    def to_replay(self) -> int:
        """How many frames are read when it is replayed."""
        return self._next_frame - self._start

    def rewind(self) -> None:
        """What follows the checkpoint is to be replayed again, as what had been made of it was let go.

        The claim stays in force, and whoever was told of a write may rely on it as before.
        """
        self.replayed = False
        self._rolled_at = self._start

    def claims(self) -> list[str]:
        """The names of the objects that are never deleted, not even with the collection. Reads the whole log."""
        for _ in self.replay(after=self._next_record):
            pass
        return [self._name(number) for number in sorted(self._claims)]

    def require_owner(self) -> None:
        """Raises Fenced where it is known that somebody else has taken over. Asks nobody; see `confirm`."""
        if self._fenced:
            raise self._fence(self._next_frame)

    # --- writing -------------------------------------------------------------------------------------

    def append(self, records: Sequence[bytes]) -> int:
        """See `Log`. Raises InDoubt where the store did not answer in time, and Fenced."""
        self._settle_checkpoint()
        self._wait_for_former_owner()
        first = self._next_record
        self._write(self._frame(Kind.RECORDS, len(records), encode_records(records)))
        return first

    def write_checkpoint(self, state: bytes, *, applied: int) -> None:
        """Make *state* what the next owner begins with: records up to *applied* are in it.

        The log must have been replayed. Frames that are no longer needed are deleted after a while.
        Raises Fenced and OSError; then the old state may count, or this one, so what either needs must stay.
        """
        self._settle_checkpoint()
        assert self.replayed, "which frames hold which records is learned in the replay"
        start = self._first_needed(applied)
        claims = tuple(sorted(claim for claim in self._claims if claim < start))
        checkpoint = Checkpoint(applied, start, claims, state)
        number = self._next_frame
        self._write(self._frame(Kind.CHECKPOINT, 0, encode_checkpoint(checkpoint)))
        gone = range(self._start, start)
        self._checkpoint, self._last_checkpoint = checkpoint, number
        self._start = start
        del self._firsts[: len(gone)]
        del self._sizes[: len(gone)]
        self._garbage.add(self._name(each) for each in gone if each not in self._claims)

    def confirm(self, *, within: float) -> None:
        """Make sure that this was still the owner *within* so many seconds. Raises Fenced and OSError.

        Costs one request where nothing was written so recently.
        """
        self.require_owner()
        self._wait_for_former_owner()
        asked = self._clock()
        if asked - self._confirmed_at <= within:
            return
        number = self._next_frame
        try:
            found = decode_frame(
                repeated(lambda: self._store.read(self._name(number)), patience=within),
                name=self._name(number),
                number=number,
            )
        except ObjectMissing:
            self._confirmed_at = max(asked, self._confirmed_at)
            return
        if found.writer != self._writer:
            raise self._fence(number)

    def _wait_for_former_owner(self) -> None:
        if (early := self._serves_from - self._clock()) > 0:
            self._sleep(early)

    def _frame(self, kind: Kind, count: int, body: bytes) -> Frame:
        return Frame(
            kind, self._next_frame, self._next_record, count, self._last_checkpoint, self._writer, body
        )

    def _write(self, frame: Frame) -> None:
        """Put *frame* at its number, or learn that this cannot be."""
        self.require_owner()
        data = encode_frame(frame)
        try:
            found = self._put(frame.number, data)
        except Refused:
            raise
        except OSError as error:
            self._checkpoint_in_doubt = frame.kind is Kind.CHECKPOINT
            self._doubt = InDoubt(
                f"the store did not confirm {self._name(frame.number)} within {self._patience:g} s: {error}",
                first=frame.first,
                settle=lambda patience: self._settle(frame, data, patience),
            )
            raise self._doubt from error
        if found != data:
            raise self._fence(frame.number)
        self._advance(frame, len(data))

    def _settle_checkpoint(self) -> None:
        """A checkpoint in doubt concerns nobody else, so it is settled here. Raises OSError, Fenced."""
        if self._doubt is not None:
            assert self._checkpoint_in_doubt, "who appended records settles what became of them"
            self._doubt.settle(None)

    def _settle(self, frame: Frame, data: bytes, patience: float | None) -> bool:
        """Whether the put of *frame* counts. If not, it never will: something else is in its place."""
        void = Frame(Kind.VOID, frame.number, frame.first, 0, self._last_checkpoint, self._writer, b"")
        instead = encode_frame(void)
        found = self._put(frame.number, instead, patience)
        self._doubt = None
        if found not in (data, instead):
            raise self._fence(frame.number)
        landed = found == data
        # A checkpoint was reported as failed. What it names is there, and so is what the one before it names,
        # so nothing hangs on which of them counts; the next one follows it either way.
        self._advance(frame if landed else void, len(found))
        if landed and frame.kind is Kind.CHECKPOINT:
            self._last_checkpoint = frame.number
        logger.warning(
            "%s was settled: the write that got no answer %s",
            self._name(frame.number),
            "counts" if landed else "does not count, and never will",
        )
        return landed

    def _put(self, number: int, data: bytes, patience: float | None = None) -> bytes:
        """Create the object of *number*, and what it then holds: *data*, unless somebody was first.

        Raises Refused where nothing can have been made, else OSError.
        """
        name = self._name(number)
        perhaps_made = False

        def attempt() -> bytes:
            nonlocal perhaps_made
            asked = self._clock()
            try:
                self._store.create(name, data)
            except ObjectExists:
                try:
                    found = self._store.read(name)
                except ObjectMissing:
                    raise OSError(f"the store refused to make {name}, which is not there") from None
                if found != data:
                    return found
            except Refused as error:
                if perhaps_made:
                    raise OSError(str(error)) from error
                raise
            except OSError:
                perhaps_made = True
                raise
            self._confirmed_at = asked
            return data

        return repeated(attempt, patience=self._patience if patience is None else patience)

    def _advance(self, frame: Frame, size: int) -> None:
        self._firsts.append(frame.first)
        self._sizes.append(size)
        self._next_frame = frame.number + 1
        self._next_record = frame.next_record
        if self._observe is not None:
            self._observe(frame.number, size)

    def _fence(self, number: int) -> Fenced:
        self._fenced = True
        return Fenced(
            f"another process has taken over {self._prefix} (frame {number} is its own): nothing is written here "
            "any more; send the request again, it goes to the new owner"
        )

    # --- reading -------------------------------------------------------------------------------------

    def replay(self, *, after: int) -> Iterator[Record]:
        """See `Log`."""
        numbers = range(self._start, self._next_frame)
        expected: int | None = None
        contents = read_ahead(lambda index: self._read(numbers[index]), list(self._sizes[: len(numbers)]))
        for index, frame in enumerate(contents):
            if expected is not None and frame.first != expected:
                raise StoreCorrupt(
                    f"{self._name(frame.number)} goes on with record {frame.first}, expected {expected}: restore "
                    "the collection from a snapshot"
                )
            expected = frame.next_record
            self._firsts[index] = frame.first
            if frame.kind is Kind.CLAIM:
                self._claims.add(frame.number)
            for number, data in enumerate(frame.records(), start=frame.first):
                if number > after:
                    yield Record(number, data)
        self.replayed = True

    def roll(self) -> None:
        """See `Log`."""
        self._rolled_at = self._next_frame

    def forget(self, *, through: int) -> None:
        """Nothing: a checkpoint has forgotten what it covers."""

    def close(self) -> None:
        """Nothing: all that was acknowledged is in the store."""

    # --- taking over -----------------------------------------------------------------------------------

    def _try_to_claim(self) -> tuple[dict[int, int], bytes, Frame]:
        """The sizes of all frames before the claim, who wrote the last of them, and the claim that followed it."""
        sizes = list_frames(self._store, self._prefix)
        if not sizes:
            raise no_frames(self._prefix)
        end = max(sizes)
        try:
            last = read_frame(self._store, self._prefix, end)
        except ObjectMissing:
            raise OSError(f"{self._name(end)} was forgotten while this process claimed the log") from None
        claim = Frame(Kind.CLAIM, end + 1, last.next_record, 0, last.newest_checkpoint, self._writer, b"")
        data = encode_frame(claim)
        if self._put(claim.number, data) != data or list_frames(
            self._store, self._prefix, after=claim.number
        ):
            raise OSError(f"others write to {self._prefix} while this process claims it")
        return sizes, last.writer, claim

    def _first_needed(self, applied: int) -> int:
        """The first frame that holds a record above *applied*, or the next frame."""
        if self._next_record <= applied + 1:
            return self._next_frame
        # Of frames without records, which begin where the next one does, the last is found.
        return self._start + max(0, bisect_right(self._firsts, applied + 1) - 1)

    def _size_of(self, number: int, sizes: dict[int, int]) -> int:
        if number not in sizes:
            raise self._missing(number)
        return sizes[number]

    def _missing(self, number: int) -> StoreCorrupt:
        return StoreCorrupt(
            f"the object {self._name(number)} is missing: restore the collection from a snapshot"
        )

    def _read(self, number: int) -> Frame:
        """A frame that is needed. Raises Fenced where somebody else has forgotten it, else StoreCorrupt."""
        try:
            return repeated(lambda: read_frame(self._store, self._prefix, number), patience=self._patience)
        except ObjectMissing:
            end = self._next_frame - 1
            following = repeated(
                lambda: list_frames(self._store, self._prefix, after=end), patience=self._patience
            )
            if following:
                raise self._fence(min(following)) from None
            raise self._missing(number) from None

    def _name(self, number: int) -> str:
        return frame_name(self._prefix, number)
