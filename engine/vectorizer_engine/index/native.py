"""faiss without its type stubs: those of 1.15 lack the search parameters, the readers and the writers."""

from __future__ import annotations

from typing import Any

import faiss as _faiss

faiss: Any = _faiss
