"""Inverted lists of 1-bit codes (faiss IVF-RaBitQ), memory-mapped: the index where memory is far smaller than
the data.

Each vector keeps one bit a dimension and is found again among the lists nearest to the query; ten candidates
a hit are scored again from the full-precision vectors. Against `quantized` its file is a fifth as large (112
against 528 bytes a vector at d = 384), so it stays in memory where the other would not, and building it takes a
quarter of the heap for large segments. In memory it is two to three times slower.

faiss 1.15 maps codes, ids and centroids; the heap holds a few hundred bytes a list (an earlier faiss kept all
of it on the heap). An index never changes. Manhattan has no such index in faiss.
"""

from __future__ import annotations

from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np

from vectorizer_engine.cache.heap import return_free_memory
from vectorizer_engine.index.base import Distance, Hits, Mask, Offsets, Vectors
from vectorizer_engine.index.faiss_file import (
    FileLayout,
    IndexShape,
    faiss_body,
    map_index_file,
    read_by_faiss,
    recipe_of,
    write_index_file,
)
from vectorizer_engine.index.flat import FlatIndex, search_in_this_thread
from vectorizer_engine.index.native import faiss
from vectorizer_engine.index.rescoring import count_bits, rescore
from vectorizer_engine.storage.files import Files

FILE_NAME = "index.ivf-rabitq"

OVERSAMPLING = 10
"""Candidates scored again for each hit asked for. 5 loses 0.003 of recall@10, 20 gains nothing."""

PROBED_SHARE = 1 / 5
"""The share of the lists that a search reads. On 67,431 MiniLM embeddings recall@10 is 0.957 with 1/12, 0.968 with
1/8, 0.976 with 1/6, 0.981 with 1/5; on 4,300 of them 0.960 and 0.969 with 1/6 and 1/5."""

QUERY_BITS = 4
"""To which a query is rounded. 8 bits cost a tenth more time and gain nothing."""

EXACT_PER_CANDIDATE = 20
"""A filter that leaves fewer than this for each candidate is answered exactly: 2,000 vectors, 0.2 ms."""

EXACT_SHARE = 1 / 4
"""So is one that leaves less than this share. With a fifth allowed both ways take the same processor time, with a
tenth the lists, of which more than half would have to be read, take twice as long."""

_METRICS = {
    Distance.COSINE: faiss.METRIC_INNER_PRODUCT,
    Distance.DOT: faiss.METRIC_INNER_PRODUCT,
    Distance.EUCLID: faiss.METRIC_L2,
}

_ROTATION_SEED = 12_345
_SAMPLES_A_LIST = 16
_SAMPLE_BYTES = 16 * 1024**2
_ROUNDS = 5
"""Of k-means. Ten of them, or twice the samples, change recall by less than 0.001."""

RECIPE = recipe_of(_ROTATION_SEED, _SAMPLES_A_LIST, _SAMPLE_BYTES, _ROUNDS)
"""All that a file depends on, besides the vectors, the distance and the format."""

_BATCH = 1024

_FACTORS_BYTES = 8
_ID_BYTES = 8
_DISTANCE_BLOCK_BYTES = 4 * 4096 * 1024
"""faiss compares 4,096 samples with 1,024 centres at once."""
# Upper bounds, checked by tests/engine/index/test_index_memory.py.
_FIXED_BUILD_BYTES = 4 * 1024**2
_FIXED_OPEN_BYTES = 512 * 1024
_HEADS_A_LIST_BYTES = 256


def supports(distance: Distance) -> bool:
    """Whether such an index exists for *distance*."""
    return distance in _METRICS


def list_count(count: int) -> int:
    """How many inverted lists *count* vectors get: four times the square root, faiss' own advice."""
    return max(1, min(4 * isqrt(count), count // _SAMPLES_A_LIST))


def file_bytes(count: int, dimension: int) -> int:
    """About what the file of *count* vectors takes on the disk: codes, ids and the centres of the lists."""
    return count * _bytes_a_vector(dimension) + list_count(count) * _padded(dimension) * 4


def build_bytes(count: int, dimension: int) -> int:
    """An upper bound of what `build` holds on the heap. To be reserved before it is called."""
    centres = list_count(count) * _padded(dimension) * 4
    training = _sample_rows(count, dimension) * _padded(dimension) * 4 + 2 * centres + _DISTANCE_BLOCK_BYTES
    # Lists grow as C++ vectors do, by doubling, so half as much again is allocated as is filled.
    lists = count * _bytes_a_vector(dimension) * 3 // 2
    filling = lists + centres + _BATCH * (8 * _padded(dimension) + 4 * list_count(count))
    return max(training, filling) + _FIXED_BUILD_BYTES


def open_bytes(count: int) -> int:
    """What an open index holds on the heap."""
    return _FIXED_OPEN_BYTES + list_count(count) * _HEADS_A_LIST_BYTES


def _bytes_a_vector(dimension: int) -> int:
    return _padded(dimension) // 8 + _FACTORS_BYTES + _ID_BYTES


def _padded(dimension: int) -> int:
    """The dimension of the rotated vectors: the next power of two."""
    return 1 << (dimension - 1).bit_length()


def build(path: Path, vectors: Vectors, distance: Distance, *, threads: int, files: Files) -> None:
    """Build the index of *vectors* (float32 [n, d], C order, n > 0, may be mapped) into the new file *path*.

    Holds `build_bytes` meanwhile, and *threads* cores. Raises OSError.
    """
    count, dimension = vectors.shape
    faiss.omp_set_num_threads(threads)
    try:
        index = _build(vectors, distance)
        shape = IndexShape(FileLayout.IVF_RABITQ, distance, dimension, count)
        write_index_file(path, faiss_body(index), shape, recipe=RECIPE, files=files)
    finally:
        faiss.omp_set_num_threads(1)
        index = None
        return_free_memory()


def _build(vectors: Vectors, distance: Distance) -> Any:
    index = _train(vectors, distance)
    return_free_memory()  # of the sample, before the lists fill
    for start in range(0, len(vectors), _BATCH):
        index.add(vectors[start : start + _BATCH])
    return index


def _train(vectors: Vectors, distance: Distance) -> Any:
    """An empty index whose lists have their centres."""
    count, dimension = vectors.shape
    # A rotation spreads what a vector holds over all its dimensions, which one bit for each relies on.
    rotation = faiss.HadamardRotation(dimension, _ROTATION_SEED)
    metric = _METRICS[distance]
    centres = faiss.IndexFlat(rotation.d_out, metric)
    lists = faiss.IndexIVFRaBitQ(centres, rotation.d_out, list_count(count), metric, True, 1)
    lists.cp.niter = _ROUNDS
    lists.cp.min_points_per_centroid = 1
    lists.train(_rotated_sample(vectors, rotation, lists.nlist))
    return faiss.IndexPreTransform(rotation, lists)


def _rotated_sample(vectors: Vectors, rotation: Any, lists: int) -> Vectors:
    """Vectors from all over the segment, to find the centres of the lists with."""
    rows = np.linspace(0, len(vectors) - 1, _sample_rows(*vectors.shape), dtype=np.int64)
    sample = np.empty((len(rows), rotation.d_out), np.float32)
    for start in range(0, len(rows), _BATCH):
        sample[start : start + _BATCH] = rotation.apply(vectors[rows[start : start + _BATCH]])
    return sample


def _sample_rows(count: int, dimension: int) -> int:
    lists = list_count(count)
    return max(lists, min(lists * _SAMPLES_A_LIST, _SAMPLE_BYTES // (4 * _padded(dimension)), count))


class RabitqIndex:
    """An index file, open, with the vectors it was built from. Any number of threads may search it."""

    def __init__(self, path: Path, vectors: Vectors, distance: Distance) -> None:
        """Raises StoreCorrupt or StoreVersionError where the file is not the index of *vectors*."""
        count, dimension = vectors.shape
        shape = IndexShape(FileLayout.IVF_RABITQ, distance, dimension, count)
        self._body = map_index_file(path, shape)  # faiss reads it in place
        self._index = read_by_faiss(path, self._body)
        self._lists = list_count(count)
        self._vectors = vectors
        self._distance = distance
        self._exact = FlatIndex(vectors, distance)

    def search(
        self, queries: Vectors, limit: int, *, mask: Mask | None = None, ef: int | None = None
    ) -> list[Hits]:
        """For each row of *queries* (float32 [q, d], C order) the *limit* nearest of what *mask* allows.

        There are fewer hits only where fewer vectors are allowed. *ef* means nothing here: how many lists are read
        follows from how much is allowed. A call keeps to its thread.
        """
        count = len(self._vectors)
        allowed = count if mask is None else count_bits(mask)
        limit = min(limit, allowed)
        wanted = limit * OVERSAMPLING
        if allowed <= max(wanted * EXACT_PER_CANDIDATE, count * EXACT_SHARE):
            return self._exact.search(queries, limit, mask=mask)
        search_in_this_thread()
        probes = min(self._lists, round(self._lists * PROBED_SHARE * count / allowed) + 1)
        candidates = self._candidates(queries, wanted, probes, mask)
        hits = rescore(self._vectors, self._distance, queries, candidates, limit)
        for row, found in enumerate(hits):
            if len(found.offsets) < limit:  # the lists held too few of what is allowed
                hits[row] = self._exact.search(queries[row : row + 1], limit, mask=mask)[0]
        return hits

    def _candidates(self, queries: Vectors, wanted: int, probes: int, mask: Mask | None) -> Offsets:
        pointer = faiss.swig_ptr
        parameters = faiss.IVFRaBitQSearchParameters()
        parameters.nprobe = probes
        parameters.qb = QUERY_BITS
        selector = None if mask is None else faiss.IDSelectorBitmap(len(self._vectors), pointer(mask))
        parameters.sel = selector
        outer = faiss.SearchParametersPreTransform(index_params=parameters)
        scores = np.empty((len(queries), wanted), np.float32)
        candidates = np.empty((len(queries), wanted), np.int64)
        self._index.search_c(
            len(queries), pointer(queries), wanted, pointer(scores), pointer(candidates), outer
        )
        return candidates
