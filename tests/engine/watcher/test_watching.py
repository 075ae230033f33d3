"""A running engine loads what appears or changes in a watched folder."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import numpy as np
import pyarrow
from pyarrow import parquet

from tests.engine.watcher.inbox import Inbox, append, line, lines


def test_the_lines_of_a_file_become_points(inbox: Inbox) -> None:
    folder = inbox.create("lines")
    name = str(uuid.uuid4())
    (folder / "a.jsonl").write_text(line(7, (1, 0, 0, 0.5), title="seven") + "\n" + line(name))
    inbox.wait_for("lines", 2)
    points = inbox.points("lines")
    assert points[7]["vector"] == [1, 0, 0, 0.5]
    assert points[7]["payload"] == {"title": "seven"}
    assert points[name]["payload"] == {}
    inbox.wait_for_log(f"loaded 2 points from {folder / 'a.jsonl'} into collection 'lines', skipped 0")


def test_only_what_is_appended_is_loaded_again(inbox: Inbox) -> None:
    file = inbox.create("appended") / "a.jsonl"
    file.write_text(lines(0, 5))
    inbox.wait_for("appended", 5)
    inbox.delete_point("appended", 0)
    append(file, lines(5, 8))
    inbox.wait_for("appended", 7)  # 0 has not come back
    assert f"loaded 3 points from {file}" in inbox.engine.log


def test_a_rewritten_file_is_loaded_from_its_beginning(inbox: Inbox) -> None:
    file = inbox.create("rewritten") / "a.jsonl"
    file.write_text(lines(0, 5, colour="red"))
    inbox.wait_for("rewritten", 5)
    size = file.stat().st_size
    file.write_text(lines(0, 5, colour="sky"))
    assert file.stat().st_size == size
    inbox.wait_for_log(f"loaded 5 points from {file}", times=2)
    assert {point["payload"]["colour"] for point in inbox.points("rewritten").values()} == {"sky"}


def test_a_shortened_file_takes_no_points_away(inbox: Inbox) -> None:
    file = inbox.create("shortened") / "a.jsonl"
    file.write_text(lines(0, 5))
    inbox.wait_for("shortened", 5)
    file.write_text("")
    append(file, line(9))
    inbox.wait_for("shortened", 6)


def test_a_deleted_file_takes_no_points_away(inbox: Inbox) -> None:
    folder = inbox.create("deleted")
    (folder / "a.jsonl").write_text(lines(0, 5))
    inbox.wait_for("deleted", 5)
    (folder / "a.jsonl").unlink()
    (folder / "b.jsonl").write_text(line(9))
    inbox.wait_for("deleted", 6)


def test_a_file_that_is_renamed_into_place_is_loaded(inbox: Inbox) -> None:
    folder = inbox.create("renamed")
    hidden = folder / ".a.jsonl"
    hidden.write_text(lines(0, 5))
    (folder / "notes.txt").write_text(lines(5, 6))
    (folder / "first.jsonl").write_text(line(10))
    inbox.wait_for("renamed", 1)
    hidden.rename(folder / "a.jsonl")
    inbox.wait_for("renamed", 6)


def test_a_folder_that_is_moved_into_place_is_loaded(inbox: Inbox, tmp_path: Path) -> None:
    inbox.create("moved").rmdir()
    made = inbox.folder.parent / "moved"
    made.mkdir()
    (made / "a.jsonl").write_text(lines(0, 5))
    made.rename(inbox.folder / "moved")
    inbox.wait_for("moved", 5)


def test_a_line_that_is_written_in_pieces_is_loaded_once_and_whole(inbox: Inbox) -> None:
    file = inbox.create("pieces") / "a.jsonl"
    whole = line(1, text="written in pieces")
    append(file, line(0) + whole[:20])
    inbox.wait_for("pieces", 1)
    append(file, whole[20:40])
    inbox.wait_for_log(f"{file} is incomplete: line 2 has no end")
    append(file, whole[40:] + line(2)[:-1])
    inbox.wait_for("pieces", 3)
    assert inbox.points("pieces")[1]["payload"] == {"text": "written in pieces"}
    append(file, "\n" + line(3))
    inbox.wait_for("pieces", 4)
    assert f"{file}:" not in inbox.engine.log  # no line was called bad


def test_bad_lines_are_named_and_skipped_and_the_others_loaded(inbox: Inbox) -> None:
    file = inbox.create("bad_lines", distance="Cosine") / "a.jsonl"
    before = inbox.metric('failures_total{reason="bad_row"}')
    file.write_text(
        line(1)
        + "{nonsense\n"
        + line(2, (1, 2, 3))
        + line(-1)
        + line(3, (0, 0, 0, 0))
        + line("three")
        + '{"id": 4, "vector": [1, 2, 3, 1e99]}\n'
        + '{"id": 5, "vectors": [1, 2, 3, 4]}\n'
        + line(6)
    )
    inbox.wait_for_log(f"loaded 2 points from {file} into collection 'bad_lines', skipped 7")
    assert set(inbox.points("bad_lines")) == {1, 6}
    for number, reason in (
        (2, "JSON is malformed"),
        (3, "has a vector of dimension 3, and the collection's have 4"),
        (4, "-1 is no point id"),
        (5, "its vector is all zeros, which has no direction"),
        (6, "'three' is no point id"),
        (7, "its vector holds NaN or a number beyond float32"),
        (8, "Object contains unknown field `vectors`"),
    ):
        [told] = [text for text in inbox.engine.log.splitlines() if f"{file}:{number} is skipped: " in text]
        assert reason in told
    assert inbox.metric('failures_total{reason="bad_row"}') == before + 7


def test_of_many_bad_lines_the_first_are_named(inbox: Inbox) -> None:
    file = inbox.create("many_bad") / "a.jsonl"
    file.write_text("x\n" * 500 + line(1))
    inbox.wait_for("many_bad", 1)
    inbox.wait_for_log(f"{file}: 490 more are skipped")
    assert inbox.engine.log.count(f"{file}:") == 11


def test_a_file_larger_than_a_batch_is_loaded_whole(inbox: Inbox) -> None:
    file = inbox.create("large") / "a.jsonl"
    upserted = inbox.metric("points_upserted_total")
    loaded = inbox.metric("files_loaded_total")
    file.write_text(lines(0, 5_000))
    inbox.wait_for("large", 5_000)
    inbox.wait_for_log(f"from {file} into")
    assert set(inbox.points("large")) == set(range(5_000))
    assert inbox.metric("points_upserted_total") == upserted + 5_000
    assert inbox.metric("files_loaded_total") > loaded


def test_the_rows_of_an_array_become_points_numbered_from_0(inbox: Inbox) -> None:
    file = inbox.create("array") / "a.npy"
    vectors = np.random.default_rng(1).normal(size=(2_500, 4)).astype(np.float32)
    np.save(file, vectors)
    inbox.wait_for("array", 2_500)
    points = inbox.points("array")
    found = np.array([points[row]["vector"] for row in range(2_500)], np.float32)
    assert np.array_equal(found, vectors)
    assert points[0]["payload"] == {}


def test_an_array_that_arrives_in_pieces_is_loaded_when_it_is_whole(inbox: Inbox, tmp_path: Path) -> None:
    file = inbox.create("array_pieces") / "a.npy"
    np.save(tmp_path / "a.npy", np.ones((100, 4)))
    content = (tmp_path / "a.npy").read_bytes()
    file.write_bytes(content[:1_000])
    inbox.wait_for_log(f"{file} is incomplete: it has 1000 of the {len(content)} bytes")
    with file.open("ab") as rest:
        rest.write(content[1_000:])
    inbox.wait_for("array_pieces", 100)


def test_the_rows_of_a_table_become_points_with_the_other_columns_as_payload(inbox: Inbox) -> None:
    file = inbox.create("table") / "a.parquet"
    table = pyarrow.table(
        {
            "id": [1, 2],
            "vector": [[1.0, 2, 3, 4], [4.0, 3, 2, 1]],
            "title": ["one", None],
            "year": [1999, 2001],
        }
    )
    parquet.write_table(table, file)
    inbox.wait_for("table", 2)
    points = inbox.points("table")
    assert points[1]["payload"] == {"title": "one", "year": 1999}
    assert points[2]["payload"] == {"year": 2001}
    assert points[2]["vector"] == [4, 3, 2, 1]


def test_files_wait_for_their_collection(inbox: Inbox) -> None:
    folder = inbox.collection_folder("later")
    (folder / "a.jsonl").write_text(lines(0, 5))
    (folder / "b.jsonl").write_text(lines(5, 9))
    inbox.wait_for_log("collection 'later' does not exist: create it with PUT /collections/later")
    inbox.create("later")
    inbox.wait_for("later", 9)
    assert inbox.engine.log.count("collection 'later' does not exist") == 1
    assert inbox.metric('failures_total{reason="collection_missing"}') >= 1


def test_a_file_outside_of_a_collections_folder_is_named(inbox: Inbox) -> None:
    file = inbox.folder / "loose.jsonl"
    file.write_text(line(1))
    inbox.wait_for_log(f"{file} is not loaded: move it into a folder that is named after its collection")


def test_a_file_that_cannot_be_opened_is_tried_again(inbox: Inbox) -> None:
    file = inbox.create("unreadable") / "a.jsonl"
    file.symlink_to(file)
    inbox.wait_for_log(f"{file} is tried again: ")
    file.unlink()
    file.write_text(line(1))
    inbox.wait_for("unreadable", 1)


def test_what_is_no_regular_file_is_left_alone(inbox: Inbox) -> None:
    folder = inbox.create("special")
    os.mkfifo(folder / "a.jsonl")
    (folder / "b.jsonl").mkdir()
    (folder / "c.jsonl").symlink_to(folder / "nowhere")
    (folder / "d.jsonl").write_text(line(1))
    inbox.wait_for("special", 1)
