"""Index files on their way to where the next owner of their segment finds them, in a thread of its own.

Nobody waits for it: not who writes, not who seals or merges. What cannot be kept is tried again as long as its segment
is there, and built again where it is missed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from vectorizer_engine.collection.maintenance import Maintenance
from vectorizer_engine.errors import Fenced, StoreCorrupt
from vectorizer_engine.storage.object_store import Refused
from vectorizer_engine.storage.segment import Segment
from vectorizer_engine.storage.segment_store import FileSegmentStore

logger = logging.getLogger(__name__)

AGAIN_SECONDS = 60.0
"""After so long an upload that failed is tried again."""


class IndexUploads:
    """Of one shard. Any thread may call."""

    def __init__(
        self,
        segments: FileSegmentStore,
        maintenance: Maintenance,
        *,
        is_running: Callable[[], bool],
        kept: Callable[[], None],
    ) -> None:
        """*kept* is called when there is one more."""
        self._segments = segments
        self._maintenance = maintenance
        self._is_running = is_running
        self._kept = kept

    def offer(self, segment: Segment, path: Path) -> None:
        """Have the index file *path* of *segment* kept, if it is not yet."""
        if self._segments.lacks_index(segment.id, path):
            self._maintenance.tidy(partial(self._upload, segment.id, path))

    def _upload(self, number: int, path: Path) -> None:
        if not self._is_running() or not self._segments.lacks_index(number, path):
            return
        try:
            self._segments.keep_index(number, path)
            self._kept()
        except (FileNotFoundError, Fenced) as error:
            logger.info("%s is not needed any more: %s", path, error)  # its segment was merged, or moved
        except (Refused, StoreCorrupt) as error:
            logger.warning("%s is kept nowhere else: %s", path, error)
        except OSError as error:
            logger.warning("%s is kept elsewhere later: %s", path, error)
            self._maintenance.tidy(partial(self._upload, number, path), after=AGAIN_SECONDS)
