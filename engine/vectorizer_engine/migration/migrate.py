"""Carrying out a plan: back up, then collection by collection compare and convert, then the configuration.

What must stay true:
- A collection is converted, in one step and durably, only after the engine gave the same for it from mapped files.
- While anything is converted, the backup, where one is kept, is complete.
- After a kill at any moment the data folder can be opened, the migration run again, and undone.

The caller holds the folder's lock.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import google_crc32c
import msgspec

from vectorizer_engine.collection.types import StorageType
from vectorizer_engine.migration.config_file import apply_changes, needed_changes
from vectorizer_engine.migration.image import OnBytes, make_image
from vectorizer_engine.migration.journal import (
    NOT_DATA,
    Journal,
    Phase,
    Places,
    Verified,
    read_journal,
    write_journal,
)
from vectorizer_engine.migration.plan import CollectionPlan, Plan
from vectorizer_engine.migration.verify import set_storage, verify_collection
from vectorizer_engine.storage.files import Files


class Report(msgspec.Struct, frozen=True):
    """What a migration has done. `backup` is the folder of the backup, empty where none is kept."""

    converted: tuple[Verified, ...]
    settings: tuple[str, ...]
    backup: str


def work_bytes(plan: Plan) -> int:
    """How many bytes `migrate` will report as done, about: what is in a log is not known before it is read."""
    backup = plan.backup.shared_bytes + plan.backup.copied_bytes if plan.backup.kept else 0
    return backup + sum(2 * (each.vector_bytes + each.log_bytes) for each in plan.converted)


def migrate(plan: Plan, file_config: Mapping[str, Any], *, files: Files, on_bytes: OnBytes) -> Report:
    """Carry out *plan*, which has no obstacles. Raises StoreCorrupt, StorageFailure, OSError; run it again then."""
    places = Places(Path(plan.data))
    journal = read_journal(places)
    if journal is None or (journal.phase is Phase.DONE and not plan.changes_nothing):
        journal = Journal(Phase.BACKING_UP, backup=plan.backup.kept)
    if journal.phase is Phase.BACKING_UP:
        journal = _back_up(plan, file_config, places, files, on_bytes)
    for collection in plan.converted:
        journal = _convert(collection, places, journal, files, on_bytes)
    settings = _convert_config(Path(plan.config), file_config, files)
    files.remove_tree(places.check)
    journal = msgspec.structs.replace(journal, phase=Phase.DONE)
    write_journal(places, journal, files=files)
    if not plan.backup.kept:
        files.remove_tree(places.root)
        files.sync_folder(places.storage)
    return Report(
        journal.verified, settings, str(places.backup) if plan.backup.kept and journal.backup else ""
    )


def _back_up(
    plan: Plan, file_config: Mapping[str, Any], places: Places, files: Files, on_bytes: OnBytes
) -> Journal:
    """The journal of a migration that may begin to convert."""
    journal = Journal(Phase.BACKING_UP, backup=plan.backup.kept)
    write_journal(places, journal, files=files)
    if plan.backup.kept:
        files.make_folder(places.data)
        make_image(places.storage, places.data, files=files, on_bytes=on_bytes, leaving_out=NOT_DATA)
        names = tuple(sorted(path.name for path in places.data.iterdir()))
        journal = msgspec.structs.replace(journal, names=names)
        if plan.settings:
            config = Path(plan.config).resolve()
            content = config.read_bytes()
            replace_content(places.config, content, like=config, files=files)
            after = apply_changes(content.decode(), needed_changes(file_config))
            journal = msgspec.structs.replace(
                journal, config=str(config), config_checksum=checksum(after.encode())
            )
        files.sync_folder(places.backup)
    else:
        files.remove_tree(places.backup)
    journal = msgspec.structs.replace(journal, phase=Phase.CONVERTING)
    write_journal(places, journal, files=files)
    return journal


def _convert(
    collection: CollectionPlan, places: Places, journal: Journal, files: Files, on_bytes: OnBytes
) -> Journal:
    folder = places.storage / "collections" / collection.folder
    verified = verify_collection(folder, places.check, files=files, on_bytes=on_bytes)
    others = tuple(each for each in journal.verified if each.collection != collection.name)
    journal = msgspec.structs.replace(journal, verified=(*others, verified))
    write_journal(places, journal, files=files)
    set_storage(folder, StorageType.MMAP, files=files)
    return journal


def _convert_config(path: Path, file_config: Mapping[str, Any], files: Files) -> tuple[str, ...]:
    changes = needed_changes(file_config)
    if changes:
        real = path.resolve()
        text = real.read_bytes().decode()  # as it is: read_text would change the ends of its lines
        replace_content(real, apply_changes(text, changes).encode(), like=real, files=files)
    return tuple(change.path for change in changes)


def replace_content(path: Path, content: bytes, *, like: Path, files: Files) -> None:
    """Make *content* the durable one of *path* in one step, with the mode and, where allowed, the owner of *like*."""
    status = like.stat()
    temporary = path.with_name(f".{path.name}.migration")
    descriptor = files.create(temporary)
    try:
        files.write(descriptor, content, 0)
        shutil.copymode(like, temporary)
        with contextlib.suppress(PermissionError):
            os.chown(temporary, status.st_uid, status.st_gid)
        files.sync(descriptor)
    finally:
        os.close(descriptor)
    files.rename(temporary, path)
    files.sync_folder(path.parent)


def checksum(content: bytes) -> str:
    return f"{google_crc32c.value(content):08x}"
