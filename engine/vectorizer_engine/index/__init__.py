"""Nearest-neighbour search over vectors that somebody else owns. One backend a file."""

import os

# Read when faiss is loaded. Its threads wait for each other all the while that they build an index, and would do so by
# running: where others want the processors too, a build then takes four times as much of them and as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
