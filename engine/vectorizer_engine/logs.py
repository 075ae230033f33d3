"""Log lines: one event a line on standard error, with the time in UTC, the level and the module."""

from __future__ import annotations

import logging
import sys
import time

_FORMAT = "%(asctime)s.%(msecs)03dZ %(levelname)-7s %(name)s: %(message)s"


def set_up() -> None:
    """Send everything from INFO up to standard error; of the libraries' own messages only warnings."""
    formatter = logging.Formatter(_FORMAT, datefmt="%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for library in ("uvicorn", "faiss", "watchfiles"):
        logging.getLogger(library).setLevel(logging.WARNING)
