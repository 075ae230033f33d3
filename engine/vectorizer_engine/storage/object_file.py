"""Copying an object to a file, in pieces of which several are under way at a time."""

from __future__ import annotations

import os
from pathlib import Path

from vectorizer_engine.storage.files import Files
from vectorizer_engine.storage.object_store import PATIENCE, ObjectStore, repeated
from vectorizer_engine.storage.read_ahead import read_ahead

_PIECE_BYTES = 4 * 1024**2


def fetch_file(
    store: ObjectStore, name: str, path: Path, size: int, *, files: Files, patience: float = PATIENCE
) -> None:
    """Make the *size* bytes of the object *name* the content of the file *path*. Raises ObjectMissing and OSError.

    *patience* is for how many seconds each request is repeated that fails.
    """
    pieces = [(start, min(_PIECE_BYTES, size - start)) for start in range(0, size, _PIECE_BYTES)]
    descriptor = files.create(path)
    try:
        contents = read_ahead(
            lambda index: repeated(lambda: store.read_range(name, *pieces[index]), patience=patience),
            [length for _, length in pieces],
        )
        for (start, _), content in zip(pieces, contents, strict=True):
            files.write(descriptor, content, start)
    finally:
        os.close(descriptor)
