"""A data folder is read to the last byte, and what is wrong is said of the right collection."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.engine.collection.model import MiB, open_store, params, vectors_of
from tests.engine.collection.test_collection import settled, wait_until
from vectorizer_engine.cache.memory_manager import CacheMemoryManager
from vectorizer_engine.cli import main
from vectorizer_engine.collection.check_data import check_data
from vectorizer_engine.collection.environment import ShardLimits
from vectorizer_engine.collection.store import VectorStore
from vectorizer_engine.errors import StoreLocked, StoreVersionError
from vectorizer_engine.storage.payload_index import FieldType


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three collections; one with an indexed segment, deleted points and a log, one with indexed payloads."""
    folder = tmp_path_factory.mktemp("data")
    store = VectorStore.open(
        folder,
        memory=CacheMemoryManager(64 * MiB),
        limits=ShardLimits(head_points=1100, quiet_head_points=600),
    )
    store.create_collection("small", params()).upsert([1], vectors_of([1]), [None])
    filtered = store.create_collection("filtered", params())
    filtered.create_payload_index("n", FieldType.INTEGER)
    filtered.upsert(list(range(600)), vectors_of([1] * 600), [{"n": seed} for seed in range(600)])
    collection = store.create_collection("large", params())
    for start in range(0, 4950, 550):
        seeds = list(range(start, start + 550))
        collection.upsert(seeds, vectors_of([seed % 50 for seed in seeds]), [{"n": seed} for seed in seeds])
    collection.delete(ids=[5, 6])
    wait_until(lambda: settled(collection) and collection.info().indexed_vectors > 0)
    wait_until(
        lambda: settled(filtered) and len(filtered.info().layouts) > 0
    )  # sealed when writes have ceased
    store.close()
    return folder


@pytest.fixture
def folder(made_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made_once, tmp_path / "data"))


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_good_folder_has_no_problems_and_is_left_as_it_is(folder: Path) -> None:
    before = files_of(folder)
    assert check_data(folder) == []
    assert files_of(folder) == before


@pytest.mark.parametrize(
    ("name", "position"),
    [
        ("MANIFEST", -1),
        ("vectors.f32", 5000),
        ("points.lmdb", 5000),
        ("CHECKSUMS", -1),
        ("index.hnsw-sq8", -1),
        ("*.payload-index", 60),
        ("*.log", 30),
    ],
)
def test_one_flipped_bit_is_found_in_every_kind_of_file(folder: Path, name: str, position: int) -> None:
    collection = "filtered" if name == "*.payload-index" else "large"
    (path, *_) = sorted((folder / "collections").glob(f"{collection}.*/**/{name}"))
    data = bytearray(path.read_bytes())
    data[position] ^= 2
    path.write_bytes(data)
    before = files_of(folder)
    (problem,) = check_data(folder)
    assert problem.collection == collection
    assert str(path) in problem.message
    assert files_of(folder) == before


def test_missing_files_are_found(folder: Path) -> None:
    (description,) = folder.glob("collections/small.*/collection.json")
    description.unlink()
    for log in folder.glob("collections/large.*/shard-0/log/*"):
        log.unlink()
    messages = sorted(problem.message for problem in check_data(folder))
    assert len(messages) == 2
    assert any("collection.json cannot be read" in message for message in messages)
    assert any("ends with record" in message for message in messages)


def test_a_segment_that_was_set_aside_stays_a_problem(folder: Path) -> None:
    (path,) = folder.glob("collections/large.*/**/vectors.f32")
    os.truncate(path, path.stat().st_size - 4)
    open_store(folder).close()
    (problem,) = check_data(folder)
    assert "points was set aside" in problem.message


def test_half_made_collections_are_no_problem(folder: Path) -> None:
    (folder / "collections" / ".new-1234").mkdir()
    assert check_data(folder) == []


def test_what_is_no_data_folder_or_is_in_use_or_too_new_is_told(folder: Path, tmp_path: Path) -> None:
    (problem,) = check_data(tmp_path)
    assert "is no data folder" in problem.message
    store = open_store(folder)
    with pytest.raises(StoreLocked):
        check_data(folder)
    store.close()
    (folder / "FORMAT").write_text("vectorizer-storage 9\n")
    with pytest.raises(StoreVersionError):
        check_data(folder)


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["check-data", *arguments])
    return result.exit_code, result.output


def test_the_command_says_so_in_words_in_json_and_by_its_status(folder: Path) -> None:
    names = ["filtered", "large", "small"]
    described = "".join(f"{name}: dimension 4, Dot, mmap storage\n" for name in names)
    assert run(str(folder)) == (0, f"{described}{folder}: everything is as it was written\n")
    report = json.loads(run(str(folder), "-o", "json")[1])
    assert report["problems"] == []
    shown = {"dimension": 4, "distance": "Dot", "storage": "mmap"}
    for each, name in zip(report["collections"], names, strict=True):
        assert each.items() >= {"name": name, **shown}.items()
    (manifest,) = folder.glob("collections/small.*/shard-0/MANIFEST")
    manifest.write_bytes(b"")
    status, words = run(str(folder))
    assert status == 1
    assert (
        words == f"{described}small: {manifest} fails its checksum: restore the collection from a snapshot\n"
        f"{folder}: 1 problem(s)\n"
    )
    status, text = run(str(folder), "-o", "json")
    assert (status, json.loads(text)["problems"][0]["collection"]) == (1, "small")
    store = open_store(folder)
    status, words = run(str(folder))
    store.close()
    assert status == 2
    assert "in use by another process" in words
    assert run(str(folder / "none"))[0] == 2
