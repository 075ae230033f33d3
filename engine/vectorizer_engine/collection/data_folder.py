"""A data folder as it lies on the disk: whose it is, its format, and what a collection's folder says of itself.

    FORMAT             the version of everything below
    LOCK               held by the one process that works here
    STORE              the address of the shared store that everything below is copied from, where there is one
    scratch/           files without a name; they go with the process
    collections/NAME.TOKEN/collection.json, shard-0/
    collections/TENANT.NAME.TOKEN/…          where the collection is a tenant's

The token tells a collection from an earlier one of the same name. A folder that begins with a dot is half-made or
half-deleted: the next start removes it.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from vectorizer_engine.collection.types import CollectionParams
from vectorizer_engine.errors import InvalidRequest, StoreCorrupt, StoreLocked, StoreVersionError
from vectorizer_engine.storage.checked_text import decode_checked, encode_checked
from vectorizer_engine.storage.files import Files
from vectorizer_engine.tenants import NO_TENANT

FORMAT = 1
_SHARD = "shard-"
SHARD = f"{_SHARD}0"
STORE_MARK = "STORE"

_FORMAT_LINE = re.compile(rb"vectorizer-storage (\d+)\n")
_DESCRIPTION = "collection.json"

_UNUSABLE = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
"""What Qdrant refuses in a collection's name."""


class Description(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a collection's folder says of itself. `copies` is how many members have each of its shards at hand."""

    name: str
    params: CollectionParams
    tenant: str = NO_TENANT
    shards: int = 1
    copies: int = 1

    @property
    def shard_names(self) -> list[str]:
        """The folders of its shards, and their prefixes in a shared store."""
        return [f"{_SHARD}{number}" for number in range(self.shards)]

    @property
    def path(self) -> str:
        """The one of all collections that this is, in words."""
        return collection_path(self.name, self.tenant)


description_decoder = msgspec.json.Decoder(Description)


def check_name(name: str) -> None:
    """Raises InvalidRequest for what cannot be a collection's name."""
    if not 1 <= len(name.encode()) <= 255 or _UNUSABLE.search(name):
        raise InvalidRequest(
            f"collection name '{name}' cannot be used: expected 1 to 255 bytes without control characters and "
            'without any of < > : " / \\ | ? *'
        )


def collection_path(name: str, tenant: str) -> str:
    """NAME, or TENANT/NAME where a tenant's is meant. No name holds a slash."""
    return f"{tenant}/{name}" if tenant else name


@contextmanager
def taking(path: Path, files: Files) -> Iterator[int]:
    """Make the data folder where it is missing, and lock it, with a descriptor that is closed if what is inside fails.

    Raises StoreLocked, StoreVersionError, OSError.
    """
    if not path.exists():
        files.make_folder(path)
        files.sync_folder(path.parent)
    for folder in (path / "collections", path / "scratch"):
        files.make_folder(folder)
    lock = take_lock(path)
    try:
        check_format(path, files)
        yield lock
    except BaseException:
        os.close(lock)
        raise


def take_lock(path: Path) -> int:
    """A descriptor that holds the folder's lock until it is closed. Raises StoreLocked."""
    descriptor = os.open(path / "LOCK", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StoreLocked(
            f"the data folder {path} is in use by another process: stop it, or choose another storage.path"
        ) from None
    return descriptor


def check_format(path: Path, files: Files) -> None:
    """Write the format file where there is none. Raises StoreVersionError."""
    file = path / "FORMAT"
    if not file.exists():
        files.replace_file(file, f"vectorizer-storage {FORMAT}\n".encode())
        return
    content = file.read_bytes()
    match = _FORMAT_LINE.fullmatch(content)
    if match is None or int(match[1]) == 0:
        raise StoreVersionError(
            f"{file} is not the format file of a data folder, but says {content[:100]!r}: check storage.path"
        )
    if int(match[1]) > FORMAT:
        raise StoreVersionError(
            f"the data folder {path} has format {int(match[1])}, this version reads up to {FORMAT}: "
            "run the version that wrote it, or a newer one"
        )


def folder_stem(name: str, tenant: str) -> str:
    """What a collection's folder is called but for the token, for people who look. The name is in the description."""
    part = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64]
    return f"{tenant}.{part}" if tenant else part


def token_of(folder: Path) -> str:
    """What tells a collection's folder from that of an earlier one of the same name."""
    return folder.name.rpartition(".")[2]


def shard_number(name: str) -> int:
    """The number of the shard whose folder is called *name*."""
    return int(name.removeprefix(_SHARD))


def write_description(folder: Path, described: Description, *, files: Files) -> None:
    files.replace_file(folder / _DESCRIPTION, encode_checked(msgspec.json.encode(described)))


def read_description(folder: Path) -> Description:
    """Raises StoreCorrupt, also where the folder's name tells of another tenant: no tenant may get another's data."""
    path = folder / _DESCRIPTION
    try:
        described = description_decoder.decode(decode_checked(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise StoreCorrupt(f"{path} cannot be read: {error}") from error
    before_name = folder.name.split(".")[:-2]
    if before_name != ([described.tenant] if described.tenant else []):
        raise StoreCorrupt(
            f"{path} says that the collection is of tenant '{described.tenant}', its folder's name says "
            f"'{'.'.join(before_name)}': restore the one that was changed"
        )
    return described
