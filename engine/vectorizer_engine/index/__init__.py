"""Nearest-neighbour search over vectors that somebody else owns. One backend a file."""
