"""The layouts that are index files: what each file is called, and what builds and opens it.

The only place where a layout becomes a module. What a backend does is in its own file, which of them a segment
gets is for `planner`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from vectorizer_engine.index import quantized, rabitq
from vectorizer_engine.index.base import ApproximateIndex, Distance, Vectors
from vectorizer_engine.index.faiss_file import version_name
from vectorizer_engine.index.planner import SegmentLayout
from vectorizer_engine.storage.files import Files


class Build(Protocol):
    def __call__(
        self, path: Path, vectors: Vectors, distance: Distance, *, threads: int, files: Files
    ) -> None:
        """Build the index of *vectors* (float32 [n, d], C order, n > 0) into the new file *path*. Raises OSError."""
        ...


class Backend(NamedTuple):
    """One kind of index file.

    `version` is that of the files that are built now. `open` raises StoreCorrupt or StoreVersionError where the file is
    not the index of the vectors it is given; `open_bytes` is what an open index of so many vectors holds on the heap,
    searching threads apart.
    """

    file_name: str
    version: str
    build: Build
    open: Callable[[Path, Vectors, Distance], ApproximateIndex]
    open_bytes: Callable[[int], int]


BACKENDS = {
    SegmentLayout.HNSW_SQ8: Backend(
        quantized.FILE_NAME,
        version_name(quantized.RECIPE),
        quantized.build,
        quantized.QuantizedIndex,
        quantized.open_bytes,
    ),
    SegmentLayout.IVF_RABITQ: Backend(
        rabitq.FILE_NAME,
        version_name(rabitq.RECIPE),
        rabitq.build,
        rabitq.RabitqIndex,
        rabitq.open_bytes,
    ),
}
