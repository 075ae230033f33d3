"""Undoing a migration: the data folder and the configuration become what they were, byte for byte.

The backup is renamed into its place, name by name, so it takes no time and no space. While that is under way the
folder's FORMAT says so, and no engine opens it. A rollback that was killed is run again. The caller holds the
folder's lock.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from vectorizer_engine.collection.check_data import LookOnly, collection_folders
from vectorizer_engine.errors import EngineError
from vectorizer_engine.migration.journal import (
    NOT_DATA,
    Journal,
    Phase,
    Places,
    read_journal,
    write_journal,
)
from vectorizer_engine.migration.migrate import checksum, replace_content
from vectorizer_engine.storage.files import Files
from vectorizer_engine.storage.log import FileLog
from vectorizer_engine.storage.manifest import read_manifest

_FORMAT = "FORMAT"
_UNDER_WAY = b"being rolled back: run vectorizer --migrate-to-cluster --rollback again\n"


class RollbackRefused(EngineError):
    """Nothing was changed."""


def roll_back(storage: Path, config: Path, *, discard_writes: bool, files: Files) -> list[str]:
    """Undo the migration of *storage*. Returns what was restored, in words.

    Raises RollbackRefused where there is nothing to go back to, or where something was written since, unless
    *discard_writes*. Raises StoreCorrupt and OSError; run it again then.
    """
    places = Places(storage)
    journal = read_journal(places)
    if journal is None:
        raise RollbackRefused(f"{places.root} holds no migration: there is nothing to roll back")
    if journal.phase is Phase.BACKING_UP:
        _remove(places, files)
        return ["nothing was converted yet"]
    if not journal.backup:
        raise RollbackRefused(
            "the migration was told to keep no backup: finish it by running it again without --rollback"
        )
    if journal.config and Path(journal.config) != config.resolve():
        raise RollbackRefused(
            f"the migration was that of {journal.config}: give it as --config, not {config}"
        )
    if journal.phase is not Phase.ROLLING_BACK:
        if not discard_writes and (written := list(_written_since(places, journal))):
            raise RollbackRefused(
                f"since the migration something was written, which the backup does not have: {'; '.join(written)}: "
                "save it first, then give --discard-writes"
            )
        write_journal(places, msgspec.structs.replace(journal, phase=Phase.ROLLING_BACK), files=files)
    restored = [f"the data folder {storage}"]
    _restore_data(places, journal, files)
    if journal.config and places.config.exists():
        real = Path(journal.config)
        replace_content(real, places.config.read_bytes(), like=real, files=files)
    if journal.config:
        restored.append(f"the configuration {journal.config}")
    _remove(places, files)
    return restored


def _written_since(places: Places, journal: Journal) -> list[str]:
    before = {folder.name: folder for folder in collection_folders(places.data)}
    now = {folder.name: folder for folder in collection_folders(places.storage)}
    found = [f"collection folder {name} was created" for name in sorted(now.keys() - before.keys())]
    found += [f"collection folder {name} was deleted" for name in sorted(before.keys() - now.keys())]
    for name in sorted(now.keys() & before.keys()):
        first, last = _last_record(before[name]), _last_record(now[name])
        if first != last:
            found.append(f"{last - first} writes to {name}")
    if journal.config and checksum(Path(journal.config).read_bytes()) not in (
        journal.config_checksum,
        checksum(places.config.read_bytes()),
    ):
        found.append(f"{journal.config} was edited")
    return found


def _last_record(collection: Path) -> int:
    """The number of the last write to a collection."""
    last = 0
    for shard in collection.glob("shard-*"):
        manifest = read_manifest(shard)
        log = FileLog(shard / "log", first=manifest.applied + 1, files=LookOnly())
        last += log.next_number - 1
    return last


def _restore_data(places: Places, journal: Journal, files: Files) -> None:
    """Exchange what is in the data folder for what the backup holds. FORMAT first, and last."""
    saved_format = places.data / _FORMAT
    if saved_format.exists():
        files.replace_file(places.storage / _FORMAT, _UNDER_WAY)
        files.make_folder(places.discarded)
        for path in sorted(places.storage.iterdir()):
            backed_up = (places.data / path.name).exists()
            if path.name not in {*NOT_DATA, _FORMAT} and (backed_up or path.name not in journal.names):
                files.rename(path, places.discarded / path.name)
        for path in sorted(places.data.iterdir()):
            if path.name != _FORMAT:
                files.rename(path, places.storage / path.name)
        files.sync_folder(places.storage)
        files.rename(saved_format, places.storage / _FORMAT)
        files.sync_folder(places.storage)


def _remove(places: Places, files: Files) -> None:
    """Remove all of the migration, its journal last."""
    for folder in (places.check, places.discarded, places.backup):
        files.remove_tree(folder)
    files.sync_folder(places.root)
    files.remove_tree(places.root)
    files.sync_folder(places.storage)
