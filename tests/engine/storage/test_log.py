"""The log: what was appended is there after any crash, in order, and damage is never taken for a torn tail."""

from __future__ import annotations

import errno
import random
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.engine.disks import FailingDisk, ForgetfulDisk
from vectorizer_engine.errors import StoreCorrupt
from vectorizer_engine.storage.files import Files
from vectorizer_engine.storage.log import FileLog

PROOF_BYTES = 21
"""The frame without records behind each frame that has some."""


def contents(folder: Path, *, after: int = 0) -> list[tuple[int, bytes]]:
    return [tuple(record) for record in FileLog(folder, first=1, files=Files()).replay(after=after)]


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_records_come_back_with_their_numbers(tmp_path: Path) -> None:
    log = FileLog(tmp_path, first=1, files=Files())
    assert log.append([b"a", b"b"]) == 1
    assert log.append([b"c"]) == 3
    assert log.next_number == 4
    assert contents(tmp_path) == [(1, b"a"), (2, b"b"), (3, b"c")]
    assert contents(tmp_path, after=2) == [(3, b"c")]


def test_a_torn_last_frame_is_cut_and_the_rest_is_served(tmp_path: Path) -> None:
    log = FileLog(tmp_path / "log", first=1, files=Files()) if (tmp_path / "log").mkdir() is None else None
    assert log is not None
    log.append([b"first", b"second"])
    whole = only_file(tmp_path / "log").stat().st_size
    log.append([b"third" * 20])
    data = only_file(tmp_path / "log").read_bytes()[:-PROOF_BYTES]
    for end in range(whole, len(data)):
        folder = tmp_path / str(end)
        folder.mkdir()
        (folder / only_file(tmp_path / "log").name).write_bytes(data[:end])
        assert contents(folder) == [(1, b"first"), (2, b"second")]
        reopened = FileLog(folder, first=1, files=Files())
        assert reopened.append([b"again"]) == 3
        assert contents(folder)[-1] == (3, b"again")


def test_a_tail_of_zeros_is_torn(tmp_path: Path) -> None:
    log = FileLog(tmp_path, first=1, files=Files())
    log.append([b"kept"])
    path = only_file(tmp_path)
    path.write_bytes(path.read_bytes() + bytes(5000))
    assert contents(tmp_path) == [(1, b"kept")]


def test_a_flipped_bit_before_the_last_frame_is_refused(tmp_path: Path) -> None:
    log = FileLog(tmp_path, first=1, files=Files())
    log.append([b"first"])
    damaged_end = only_file(tmp_path).stat().st_size - PROOF_BYTES
    log.append([b"second"])
    path = only_file(tmp_path)
    data = path.read_bytes()
    for position in range(damaged_end):
        for bit in (0, 7):
            broken = bytearray(data)
            broken[position] ^= 1 << bit
            path.write_bytes(broken)
            with pytest.raises(StoreCorrupt, match=r"damaged at byte 0: acknowledged records follow"):
                FileLog(tmp_path, first=1, files=Files())


def test_a_flipped_bit_in_a_log_that_was_closed_is_refused_even_in_its_last_record(tmp_path: Path) -> None:
    log = FileLog(tmp_path, first=1, files=Files())
    log.append([b"only"])
    end = only_file(tmp_path).stat().st_size
    log.close()
    path = only_file(tmp_path)
    data = bytearray(path.read_bytes())
    data[end - 1] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreCorrupt):
        FileLog(tmp_path, first=1, files=Files())


def test_a_flipped_bit_in_the_last_frame_is_refused_where_the_process_was_killed(tmp_path: Path) -> None:
    log = FileLog(tmp_path, first=1, files=Files())
    log.append([b"first"])
    start = only_file(tmp_path).stat().st_size
    log.append([b"last"])
    path = only_file(tmp_path)
    data = path.read_bytes()
    for position in range(start, len(data) - PROOF_BYTES):
        broken = bytearray(data)
        broken[position] ^= 1
        path.write_bytes(broken)
        with pytest.raises(StoreCorrupt, match=rf"damaged at byte {start}: acknowledged records follow"):
            FileLog(tmp_path, first=1, files=Files())


def test_without_its_proof_a_damaged_last_frame_is_taken_for_a_torn_one(tmp_path: Path) -> None:
    """What a machine that failed right after the acknowledgement, and damage on top of that, leave."""
    disk = ForgetfulDisk()
    (tmp_path / "log").mkdir()
    log = FileLog(tmp_path / "log", first=1, files=disk)
    log.append([b"first"])
    log.append([b"last"])
    disk.crash(tmp_path / "log", tmp_path / "left", survives=lambda: False)
    assert contents(tmp_path / "left") == [(1, b"first"), (2, b"last")]
    path = only_file(tmp_path / "left")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert contents(tmp_path / "left") == [(1, b"first")]


@pytest.mark.parametrize("torn", range(PROOF_BYTES))
def test_a_torn_proof_costs_nothing(tmp_path: Path, torn: int) -> None:
    log = FileLog(tmp_path, first=1, files=Files())
    log.append([b"a"])
    path = only_file(tmp_path)
    path.write_bytes(path.read_bytes()[: -PROOF_BYTES + torn])
    reopened = FileLog(tmp_path, first=1, files=Files())
    assert reopened.append([b"b"]) == 2
    assert contents(tmp_path) == [(1, b"a"), (2, b"b")]


def test_a_proof_that_cannot_be_written_fails_no_append(tmp_path: Path) -> None:
    disk = FailingDisk()
    log = FileLog(tmp_path, first=1, files=disk)
    log.append([b"a"])
    disk.fail_after, disk.once = 3, True  # after the two writes and their fsync; half of the proof is written
    assert log.append([b"b"]) == 2
    assert disk.fail_after is None
    assert log.append([b"c"]) == 3
    assert contents(tmp_path) == [(1, b"a"), (2, b"b"), (3, b"c")]


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    log = FileLog(tmp_path, first=1, files=Files())
    for record in (b"a", b"b", b"c"):
        log.append([record])
        log.roll()
    first, middle, _ = sorted(tmp_path.iterdir())
    middle.unlink()
    with pytest.raises(StoreCorrupt, match="goes on with record 3, expected 2"):
        FileLog(tmp_path, first=1, files=Files())
    first.unlink()
    with pytest.raises(StoreCorrupt, match="goes on with record 3, expected 1"):
        FileLog(tmp_path, first=1, files=Files())


def test_a_forgotten_file_that_a_crash_brought_back_does_no_harm(tmp_path: Path) -> None:
    log = FileLog(tmp_path, first=1, files=Files())
    for record in (b"a", b"b", b"c"):
        log.append([record])
        log.roll()
    sorted(tmp_path.iterdir())[1].unlink()
    assert contents_from(tmp_path, 3) == [(3, b"c")]


def test_a_frame_that_was_copied_into_another_place_is_refused(tmp_path: Path) -> None:
    log = FileLog(tmp_path, first=1, files=Files())
    log.append([b"a"])
    path = only_file(tmp_path)
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(StoreCorrupt, match="goes on with record 1, expected 2"):
        FileLog(tmp_path, first=1, files=Files())


def test_forgotten_files_are_removed_and_numbers_go_on(tmp_path: Path) -> None:
    log = FileLog(tmp_path, first=1, files=Files())
    log.append([b"a", b"b"])
    log.roll()
    log.append([b"c"])
    log.forget(through=1)
    assert len(list(tmp_path.iterdir())) == 2
    log.forget(through=2)
    assert contents_from(tmp_path, 3) == [(3, b"c")]
    log.forget(through=3)
    assert list(tmp_path.iterdir()) == []
    assert log.append([b"d"]) == 4
    assert contents_from(tmp_path, 4) == [(4, b"d")]


def contents_from(folder: Path, first: int) -> list[tuple[int, bytes]]:
    return [tuple(record) for record in FileLog(folder, first=first, files=Files()).replay(after=first - 1)]


def test_files_that_end_before_the_first_needed_record_are_removed_at_opening(tmp_path: Path) -> None:
    FileLog(tmp_path, first=1, files=Files()).append([b"a", b"b"])
    log = FileLog(tmp_path, first=5, files=Files())
    assert list(tmp_path.iterdir()) == []
    assert log.append([b"e"]) == 5


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_an_append_that_fails_leaves_nothing_and_the_next_one_works(tmp_path: Path, number: int) -> None:
    disk = FailingDisk()
    disk.errno = number
    log = FileLog(tmp_path, first=1, files=disk)
    log.append([b"a"])
    for call in range(2):  # the write, then the fsync
        disk.fail_after, disk.once = call, True
        with pytest.raises(OSError, match=r"No space|Input") as caught:
            log.append([b"lost"])
        assert caught.value.errno == number
        assert b"lost" not in [data for _, data in contents(tmp_path)]
        log.append([f"after {call}".encode()])
    assert contents(tmp_path) == [(1, b"a"), (2, b"after 0"), (3, b"after 1")]


def test_an_append_that_could_not_be_undone_does_not_count(tmp_path: Path) -> None:
    class StubbornDisk(FailingDisk):
        def truncate(self, descriptor: int, size: int) -> None:
            raise OSError(errno.EIO, "no")

    disk = StubbornDisk()
    log = FileLog(tmp_path, first=1, files=disk)
    log.append([b"a"])
    disk.fail_after, disk.once = 1, True
    with pytest.raises(OSError, match="No space"):
        log.append([b"lost"])
    log.append([b"b"])
    assert contents(tmp_path) == [(1, b"a"), (2, b"b")]


def test_a_disk_that_stays_full_refuses_every_append(tmp_path: Path) -> None:
    disk = FailingDisk()
    log = FileLog(tmp_path, first=1, files=disk)
    log.append([b"a"])
    disk.fail_after = 0
    for _ in range(3):
        with pytest.raises(OSError, match="No space"):
            log.append([b"lost"])
    disk.fail_after = None
    assert log.append([b"b"]) == 2
    assert contents(tmp_path) == [(1, b"a"), (2, b"b")]


class LogMachine(RuleBasedStateMachine):
    """A log on a disk that forgets, against a list."""

    @initialize(seed=st.integers(0, 2**32))
    def start(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.root = Path(tempfile.mkdtemp())
        self.life = 0
        self.disk = ForgetfulDisk()
        self.folder = self.root / "0"
        self.disk.make_folder(self.folder)
        self.first = 1
        self.model: dict[int, bytes] = {}
        self.next = 1
        self.log = FileLog(self.folder, first=1, files=self.disk)

    @rule(records=st.lists(st.binary(max_size=40), min_size=1, max_size=4))
    def append(self, records: list[bytes]) -> None:
        assert self.log.append(records) == self.next
        for record in records:
            self.model[self.next] = record
            self.next += 1

    @rule()
    def roll(self) -> None:
        self.log.roll()

    @precondition(lambda self: self.next > self.first)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        through = data.draw(st.integers(self.first, self.next - 1))
        self.log.forget(through=through)
        self.first = through + 1

    @rule()
    def reopen(self) -> None:
        self.log.close()
        self.log = FileLog(self.folder, first=self.first, files=self.disk)

    @rule(torn=st.integers(0, 60))
    def crash(self, torn: int) -> None:
        self.life += 1
        target = self.root / str(self.life)
        self.disk.crash(self.folder, target, survives=lambda: self.random.random() < 0.5)
        files = sorted(target.iterdir())
        if files and torn:  # an append that was on its way
            with files[-1].open("ab") as file:
                file.write(self.random.randbytes(torn))
        self.folder = target
        self.disk = ForgetfulDisk()
        for path in files:
            self.disk.sync_file(path)
        self.disk.sync_folder(target)
        self.log = FileLog(target, first=self.first, files=self.disk)

    @invariant()
    def everything_acknowledged_is_there(self) -> None:
        assert self.log.next_number == self.next
        kept = [(number, data) for number, data in self.model.items() if number >= self.first]
        assert [tuple(record) for record in self.log.replay(after=self.first - 1)] == kept

    def teardown(self) -> None:
        if hasattr(self, "root"):
            self.log.close()
            shutil.rmtree(self.root)


TestLogMachine = LogMachine.TestCase
TestLogMachine.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
