"""An index file is taken whole and unharmed or not at all, and a disk that fails while it is written says so."""

from __future__ import annotations

import errno
import struct
from pathlib import Path

import google_crc32c
import pytest

from tests.engine.disks import FailingDisk
from tests.engine.index.samples import BACKENDS, clustered, open_index, unit
from vectorizer_engine.errors import StoreCorrupt, StoreVersionError
from vectorizer_engine.index import backends as layouts
from vectorizer_engine.index import quantized
from vectorizer_engine.index.base import Distance
from vectorizer_engine.index.faiss_file import (
    FORMAT,
    FileLayout,
    IndexShape,
    faiss_body,
    recipe_of,
    seal_page,
    version_in,
    version_name,
    write_index_file,
)
from vectorizer_engine.index.native import faiss
from vectorizer_engine.storage.files import Files

VECTORS = unit(clustered(3000, 32))
QUERY = VECTORS[7:8]
COSINE = Distance.COSINE

pytestmark = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index"


def build(backend: str, path: Path) -> bytes:
    open_index(backend, path, VECTORS, COSINE)
    return path.read_bytes()


def reopen(backend: str, path: Path) -> None:
    BACKENDS[backend][1](path, VECTORS, COSINE)


def test_an_index_answers_the_same_after_it_was_opened_again(backend: str, path: Path) -> None:
    index = open_index(backend, path, VECTORS, COSINE)
    again = BACKENDS[backend][1](path, VECTORS, COSINE)
    assert index.search(QUERY, 5)[0].offsets.tolist() == again.search(QUERY, 5)[0].offsets.tolist()
    assert again.search(QUERY, 5)[0].offsets[0] == 7


def test_an_open_index_outlives_the_name_of_its_file(backend: str, path: Path) -> None:
    index = open_index(backend, path, VECTORS, COSINE)
    path.unlink()
    assert index.search(QUERY, 1)[0].offsets.tolist() == [7]


@pytest.mark.parametrize("where", [0, 10, 30, 47, 4095, 4096, 5000, 0.5, 0.9, -1])
def test_one_flipped_bit_is_noticed(backend: str, path: Path, where: float) -> None:
    content = bytearray(build(backend, path))
    content[int(where * len(content)) if isinstance(where, float) else where] ^= 4
    path.write_bytes(content)
    with pytest.raises(StoreCorrupt, match=r"index .*remove the file, and the index is built again"):
        reopen(backend, path)


@pytest.mark.parametrize("size", [0, 20, 4096, 0.5, -1])
def test_a_truncated_file_is_noticed(backend: str, path: Path, size: float) -> None:
    content = build(backend, path)
    path.write_bytes(content[: int(size * len(content)) if isinstance(size, float) else size])
    with pytest.raises(StoreCorrupt, match=str(path)):
        reopen(backend, path)


def test_a_longer_file_is_noticed(backend: str, path: Path) -> None:
    path.write_bytes(build(backend, path) + b"\0")
    with pytest.raises(StoreCorrupt, match=f"has {path.stat().st_size} bytes, expected"):
        reopen(backend, path)


def test_a_file_that_is_missing_is_named(backend: str, path: Path) -> None:
    with pytest.raises(StoreCorrupt, match=f"{path} cannot be read: No such file"):
        reopen(backend, path)


def test_the_index_of_other_vectors_is_refused(backend: str, path: Path) -> None:
    build(backend, path)
    index = BACKENDS[backend][1]
    with pytest.raises(
        StoreCorrupt, match=r"for 3000 vectors of dimension 32 .* expected .* for 2999 vectors"
    ):
        index(path, VECTORS[:-1], COSINE)
    with pytest.raises(StoreCorrupt, match="compared by Euclid"):
        index(path, VECTORS, Distance.EUCLID)


def test_a_newer_format_says_so(backend: str, path: Path) -> None:
    content = bytearray(build(backend, path))
    struct.pack_into("<I", content, 8, FORMAT + 1)
    content[:4096] = seal_page(bytes(content[:4096]))
    path.write_bytes(content)
    with pytest.raises(
        StoreVersionError, match=f"has format {FORMAT + 1}, this version reads up to {FORMAT}"
    ):
        reopen(backend, path)


def test_an_intact_file_that_is_not_understood_is_refused(backend: str, path: Path) -> None:
    layout = FileLayout.HNSW_SQ8 if backend == "hnsw-sq8" else FileLayout.IVF_RABITQ
    shape = IndexShape(layout, COSINE, 32, 3000)
    write_index_file(path, faiss_body(faiss.IndexFlat(32)), shape, recipe=bytes(8), files=Files())
    content = bytearray(path.read_bytes())
    content[4096:4100] = b"none"
    body = bytes(content[4096:])
    struct.pack_into("<I", content, 8 + 4 + 2 + 2 + 4 + 8 + 8, google_crc32c.value(body))
    content[:4096] = seal_page(bytes(content[:4096]))
    path.write_bytes(content)
    with pytest.raises(
        StoreCorrupt, match=r"intact, but (faiss .* cannot read it|its header is not that of an HNSW)"
    ):
        reopen(backend, path)


def test_every_write_that_fails_is_told_to_the_caller(backend: str, path: Path) -> None:
    disk = FailingDisk()
    few = VECTORS[:300]
    builder = BACKENDS[backend][0]
    builder(path, few, COSINE, threads=1, files=disk)
    calls = len(disk.calls)
    assert calls > 3
    for failing in range(calls):
        disk.fail_after = failing
        with pytest.raises(OSError, match="No space left") as failure:
            builder(path, few, COSINE, threads=1, files=disk)
        assert failure.value.errno == errno.ENOSPC


def test_a_file_is_as_large_as_was_said(backend: str, path: Path) -> None:
    content = build(backend, path)
    if backend == "hnsw-sq8":
        assert len(content) == pytest.approx(quantized.file_bytes(*VECTORS.shape), rel=0.05)


def test_a_file_says_how_it_was_built_as_far_as_that_was_known(backend: str, path: Path) -> None:
    content = bytearray(build(backend, path))
    layout = next(each for each in layouts.BACKENDS.values() if each.file_name.endswith(backend))
    assert version_in(path) == layout.version
    struct.pack_into("<8s", content, 40, bytes(8))  # an earlier version left it at zeros
    content[:4096] = seal_page(bytes(content[:4096]))
    path.write_bytes(content)
    assert version_in(path) == version_name(bytes(8)) != layout.version
    reopen(backend, path)


def test_other_parameters_make_another_version(backend: str) -> None:
    assert version_name(recipe_of(16, 128)) != version_name(recipe_of(16, 129))


def test_what_is_no_index_file_has_no_version(backend: str, path: Path) -> None:
    path.write_bytes(b"something else")
    with pytest.raises(StoreCorrupt, match="shorter than its header"):
        version_in(path)
