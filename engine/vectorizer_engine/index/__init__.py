"""Nearest-neighbour search over vectors that somebody else owns. One backend a file."""

import os

# Read when faiss is loaded. Its threads wait for each other when they build an index of inverted lists, and would do so
# by running, while others may want the processors.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
