"""What a migration remembers beside the data, so that it can be killed, run again, and undone.

STORAGE/migration/
  journal.json     how far it is
  backup/data/     the image of the data folder as it was (see `image`)
  backup/config    the configuration as it was, if the migration changes it
  check/           what a collection is compared in; gone when that is done
  discarded/       what a rollback has taken away, until it is done
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import msgspec

from vectorizer_engine.errors import StoreCorrupt
from vectorizer_engine.storage.files import Files

FOLDER = "migration"
NOT_DATA = frozenset({FOLDER, "LOCK"})
"""Names in a data folder that are not part of what is backed up and restored."""


class Phase(StrEnum):
    """Up to which point the data folder is as it was, and what is the backup's worth."""

    BACKING_UP = "backing-up"
    """Nothing has changed. The backup may be incomplete."""
    CONVERTING = "converting"
    """The backup, if there is to be one, is complete; any of the collections may be converted."""
    DONE = "done"
    ROLLING_BACK = "rolling-back"
    """Part of the backup may be back in its place. Only a rollback may go on."""


class Verified(msgspec.Struct, frozen=True):
    """A collection that gives the same from mapped files, and was then converted."""

    collection: str
    points: int
    checksum: str
    queries: int


class Journal(msgspec.Struct, frozen=True):
    """`names`: what the data folder held. `config`: the converted file, and the checksum of what it then held."""

    phase: Phase
    backup: bool
    names: tuple[str, ...] = ()
    config: str = ""
    config_checksum: str = ""
    verified: tuple[Verified, ...] = ()
    format: int = 1


_journal = msgspec.json.Decoder(Journal)


class Places:
    """The paths of one migration, below the data folder *storage*."""

    def __init__(self, storage: Path) -> None:
        self.storage = storage
        self.root = storage / FOLDER
        self.journal = self.root / "journal.json"
        self.backup = self.root / "backup"
        self.data = self.backup / "data"
        self.config = self.backup / "config"
        self.check = self.root / "check"
        self.discarded = self.root / "discarded"


def read_journal(places: Places) -> Journal | None:
    """None where no migration was begun. Raises StoreCorrupt, OSError."""
    try:
        return _journal.decode(places.journal.read_bytes())
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise StoreCorrupt(f"{places.journal} cannot be read: {error}") from error


def write_journal(places: Places, journal: Journal, *, files: Files) -> None:
    """Make *journal* durable in one step. Raises OSError."""
    if not places.root.exists():
        files.make_folder(places.root)
        files.sync_folder(places.storage)
    files.replace_file(places.journal, msgspec.json.encode(journal))
