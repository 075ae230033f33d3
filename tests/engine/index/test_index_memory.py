"""What an index holds on the heap, measured against what it says beforehand.

Each measurement runs in a process of its own, as anonymous resident memory: what the allocator and the C++
library do shows there, and nothing of other tests.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.engine.children import output_of
from vectorizer_engine.index import quantized, rabitq

MEASURE = '''
import json, re, sys, threading
from pathlib import Path
import numpy as np
from tests.engine.index.samples import BACKENDS
from vectorizer_engine.index.base import Distance
from vectorizer_engine.cache.heap import return_free_memory
from vectorizer_engine.storage.files import Files

backend, folder, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
vectors = np.asarray(np.load(folder / "vectors.npy", mmap_mode="r"))
build, index_class = BACKENDS[backend]

def anonymous():
    return 1024 * int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

def rows():
    """Kilobytes of anonymous memory in mappings of the index file."""
    text = Path("/proc/self/smaps").read_text()
    part = [area for area in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", text) if str(folder / "index") in area]
    total = lambda field: sum(int(re.search(field + r":\\s+(\\d+)", area)[1]) for area in part)
    return {"mapped": total("Size") * 1024, "anonymous": total("Anonymous") * 1024}

class Peak(threading.Thread):
    def __init__(self):
        super().__init__()
        self.done, self.bytes = threading.Event(), 0
    def run(self):
        while not self.done.wait(0.001):
            self.bytes = max(self.bytes, anonymous())

warm = np.ascontiguousarray(vectors[:500])
build(folder / "warm", warm, Distance.COSINE, threads=threads, files=Files())
index_class(folder / "warm", warm, Distance.COSINE).search(warm[:2], 1)
return_free_memory()

start, peak = anonymous(), Peak()
peak.start()
build(folder / "index", vectors, Distance.COSINE, threads=threads, files=Files())
peak.done.set()
peak.join()
built = anonymous()
index = index_class(folder / "index", vectors, Distance.COSINE)
opened = anonymous()
queries = np.ascontiguousarray(vectors[:3])
for _ in range(300):
    index.search(queries, 10)
searched = anonymous()
file = rows()
del index
return_free_memory()
print(json.dumps({"peak": peak.bytes - start, "left": built - start, "open": opened - built,
                  "search": searched - opened, "closed": anonymous() - built, "file": file}))
'''


@dataclass(frozen=True)
class Measured:
    peak: int
    left: int
    open: int
    search: int
    closed: int
    file: dict[str, int]


def measure(backend: str, folder: Path, count: int, dimension: int, *, threads: int = 2) -> Measured:
    vectors = np.random.default_rng(0).standard_normal((count, dimension), np.float32)
    np.save(folder / "vectors.npy", vectors)
    return Measured(**json.loads(output_of(MEASURE, backend, str(folder), str(threads), seconds=240)))


@pytest.mark.parametrize(("count", "dimension", "threads"), [(20_000, 128, 2), (12_000, 384, 1)])
def test_hnsw_sq8_holds_what_it_said(tmp_path: Path, count: int, dimension: int, threads: int) -> None:
    measured = measure("hnsw-sq8", tmp_path, count, dimension, threads=threads)
    assert measured.peak == pytest.approx(quantized.build_bytes(count, dimension, threads=threads), rel=0.05)
    noise = 256 * 1024
    assert measured.left <= noise, "what building took goes back to the operating system"
    pieces = 2 * 128 * 1024  # of the file, which were read to check it, and are free again
    assert measured.open <= quantized.open_bytes(count) + pieces + noise
    assert measured.search <= quantized.scratch_bytes(count) + noise
    assert measured.closed <= quantized.scratch_bytes(count) + noise
    assert measured.file["mapped"] >= quantized.file_bytes(count, dimension)
    assert measured.file["anonymous"] == 0, "graph and codes stay pages of their file"


@pytest.mark.parametrize(("count", "dimension"), [(30_000, 128), (20_000, 256)])
def test_ivf_rabitq_holds_no_more_than_it_said(tmp_path: Path, count: int, dimension: int) -> None:
    measured = measure("ivf-rabitq", tmp_path, count, dimension)
    assert 0.5 * rabitq.build_bytes(count, dimension) <= measured.peak <= rabitq.build_bytes(count, dimension)
    assert measured.open <= rabitq.open_bytes(count)
    assert measured.file["mapped"] >= 0.95 * rabitq.file_bytes(count, dimension)
    assert measured.file["anonymous"] == 0, "codes, ids and centres stay pages of their file"
