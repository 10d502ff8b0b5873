"""Parts and their names. A part is a Parquet file `part-v5-<nanoseconds since 1970>-<digest>.parquet`.

`v5` is the version of the columns. The digest is the start of the SHA-256 of the whole file, so a damaged file does not
match the digest in its name. Parts of version 1 are named `part-<nanoseconds>-<random digits>.parquet`: they have no
digest.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from study.errors import first_line
from study.storage.paths import StoragePath

_NAME = re.compile(r"part-(?:v(?P<version>[1-9]\d{0,8})-)?(?P<written>\d{1,25})-(?P<digest>[0-9a-f]{8,64})\.parquet")
_DIGEST_LENGTH = 16
_SHOWN = 5

CHANGED = "its content does not match the digest in its name"


@dataclass(frozen=True)
class PartName:
    """The parsed name of a part (Parquet file of a run): the version of its columns, its digest, and its time.

    `digest` is None for version 1. `written` is the time when the part was named, in nanoseconds since 1970.
    """

    version: int
    digest: str | None
    written: int


def digest(content: bytes | memoryview) -> str:
    """Return the digest of the content of a part (Parquet file): the first 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(content).hexdigest()[:_DIGEST_LENGTH]


def new_name(content: bytes | memoryview, version: int) -> str:
    """Return a new name for a part (Parquet file) with this content. It is unique, because it contains the time."""
    return f"part-v{version}-{time.time_ns():020d}-{digest(content)}.parquet"


def parse_name(name: str) -> PartName | None:
    """Return the parsed name of a part (Parquet file of a run); None if `name` is not the name of a part."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    if found["version"] is None:
        return PartName(1, None, int(found["written"]))
    return PartName(int(found["version"]), found["digest"], int(found["written"]))


def list_parts(folder: StoragePath) -> list[StoragePath]:
    """Return the parts (Parquet files of a run) in a folder and its subfolders, sorted by path, without other files."""
    found: Iterator[StoragePath] = folder.rglob("*.parquet")
    return sorted((path for path in found if parse_name(path.name) is not None), key=str)


def list_strays(folder: StoragePath) -> list[StoragePath]:
    """Return the files in a folder of parts (Parquet files) that are not parts, sorted by path.

    `study` never reads these files.
    """
    found: Iterator[StoragePath] = folder.rglob("*")
    return sorted((path for path in found if parse_name(path.name) is None and path.is_file()), key=str)


def describe_strays(strays: Sequence[StoragePath]) -> str:
    """Return a line for a message that names the first five of the files `strays`, which are not parts."""
    names = ", ".join(path.name for path in strays[:_SHOWN]) + (", …" if len(strays) > _SHOWN else "")
    one, several = "1 file is not a part of this run, and is", f"{len(strays)} files are not parts of this run, and are"
    return f"{one if len(strays) == 1 else several} ignored: {names}"


def damage(path: StoragePath) -> str | None:
    """Return a description of the damage of a part (Parquet file of a run); None if the part is intact.

    A part is intact if its content matches the digest in its name. A part of version 1 has no digest: such a part
    counts as intact if its Parquet metadata can be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = parse_name(path.name)
    expected = None if name is None else name.digest
    try:
        if expected is not None and _file_digest(path) == expected:
            return None
        pq.read_metadata(pa.BufferReader(path.read_bytes()))
    except (OSError, pa.ArrowException) as error:
        return f"it cannot be read: {first_line(error)}"
    return None if expected is None else CHANGED


def _file_digest(path: StoragePath) -> str:
    if not isinstance(path, Path):
        return digest(path.read_bytes())
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:_DIGEST_LENGTH]
