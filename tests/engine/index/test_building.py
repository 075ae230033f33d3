"""What building an index takes from others."""

from pathlib import Path

from tests.engine.children import output_of

PROCESSOR_TIME = """
import sys, tempfile, time
from pathlib import Path
import numpy as np
from vectorizer_engine.index import quantized
from vectorizer_engine.index.base import Distance
from vectorizer_engine.storage.files import Files

rows = np.random.default_rng(1).standard_normal((6000, 64), dtype=np.float32)
folder = Path(tempfile.mkdtemp(dir=sys.argv[1]))
for threads in (1, 2):
    began = time.process_time()
    quantized.build(folder / str(threads), rows, Distance.DOT, threads=threads, files=Files())
    print(time.process_time() - began)
"""


def test_two_threads_take_hardly_more_of_the_processor_than_one(tmp_path: Path) -> None:
    alone, together = map(float, output_of(PROCESSOR_TIME, str(tmp_path), seconds=60).split())
    assert together < 1.5 * alone
