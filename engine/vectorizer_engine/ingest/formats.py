"""Which files are files of points, by the end of their names."""

from __future__ import annotations

from typing import NamedTuple

from vectorizer_engine.ingest.batch import ReadBatches
from vectorizer_engine.ingest.jsonl import read_jsonl
from vectorizer_engine.ingest.npy import read_npy
from vectorizer_engine.ingest.parquet import read_parquet


class PointFormat(NamedTuple):
    """How files are read, whether they can be read while they grow, and how a row is named behind the path."""

    read: ReadBatches
    grows: bool
    place: str


FORMATS = {
    ".jsonl": PointFormat(read_jsonl, grows=True, place=":{}"),
    ".npy": PointFormat(read_npy, grows=False, place=": row {}"),
    ".parquet": PointFormat(read_parquet, grows=False, place=": row {}"),
}
