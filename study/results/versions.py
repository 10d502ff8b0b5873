"""Parts carry the version of their columns in their names; older ones are brought up to the present one when scanned.

`part-v2-<nanoseconds>-<digest>.parquet`: the digest is the beginning of the SHA-256 of the whole file. Names without
a version are of version 1, and have no digest.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

from study.errors import StudyError
from study.results.schema import SCHEMA, SCHEMA_VERSION

PRESENT = pl.DataFrame(SCHEMA.empty_table()).schema
METADATA = b"study.schema_version"
"""The key of the version in a part's Parquet metadata."""

_NAME = re.compile(r"part-(?:v(?P<version>[1-9]\d{0,8})-)?(?P<written>\d{1,25})-(?P<random>[0-9a-f]{8,64})\.parquet")
DIGITS = 16
"""Of the digest of a part, how many its name ends in."""


@dataclass(frozen=True)
class Name:
    """What the name of a part says; `digest` is None where it has none. `written` is when, nanoseconds since 1970."""

    version: int
    digest: str | None
    written: int


@dataclass(frozen=True)
class Forward:
    """From one version to the next: the columns of the older one, given the newer's, and the way to the newer."""

    before: Callable[[pl.Schema], pl.Schema]
    bring: Callable[[pl.LazyFrame], pl.LazyFrame]


def _without(*columns: str) -> Callable[[pl.Schema], pl.Schema]:
    return lambda schema: pl.Schema({name: kind for name, kind in schema.items() if name not in columns})


def _with_white_box(schema: pl.Schema) -> pl.Schema:
    older: dict[str, pl.DataType] = {}
    for name, kind in schema.items():
        older["white_box" if name == "relation" else name] = pl.Boolean() if name == "relation" else kind
    return pl.Schema(older)


FORWARD: dict[int, Forward] = {
    1: Forward(_without("top1"), lambda rows: rows.with_columns(top1=pl.col("top5").list.first())),
    2: Forward(
        _with_white_box,
        lambda rows: rows.with_columns(
            relation=pl.when("white_box").then(pl.lit("white")).otherwise(pl.lit("black"))
        ).drop("white_box"),
    ),
}
"""By the older version. What a version-2 row calls black may be grey: only a spec says so, see `store.scan`."""

GRADED = 3
"""The first version whose rows know grey-box targets."""


def digest(content: bytes | memoryview) -> str:
    """What a part's name ends in."""
    return hashlib.sha256(content).hexdigest()[:DIGITS]


def new_name(content: bytes | memoryview, version: int = SCHEMA_VERSION) -> str:
    """A name that no other part has, nor another content."""
    return f"part-v{version}-{time.time_ns():020d}-{digest(content)}.parquet"


def read_name(name: str) -> Name | None:
    """What the name of a part says; None where it is none of ours."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    if found["version"] is None:
        return Name(1, None, int(found["written"]))
    return Name(int(found["version"]), found["random"], int(found["written"]))


def version(name: str, where: object) -> int:
    """The version of the part of that name; foreign names are held to be of the first.

    Raises StudyError where it is newer than what this installation knows.
    """
    said = read_name(name)
    found = 1 if said is None else said.version
    if found > SCHEMA_VERSION:
        raise StudyError(
            f"{name} has rows of version {found}",
            where=str(where),
            accepted=f"versions 1 to {SCHEMA_VERSION}",
            todo="install the version of study that wrote it, or a later one",
        )
    return found


def columns(of: int) -> pl.Schema:
    """The columns of parts of version `of`."""
    schema = PRESENT
    for older in range(SCHEMA_VERSION - 1, of - 1, -1):
        schema = FORWARD[older].before(schema)
    return schema


def forward(rows: pl.LazyFrame, of: int, *also: str) -> pl.LazyFrame:
    """Rows of version `of` with the columns of the present one, in their order, and those named in `also`."""
    for older in range(of, SCHEMA_VERSION):
        rows = FORWARD[older].bring(rows)
    return rows if of == SCHEMA_VERSION else rows.select(*PRESENT.names(), *also).cast(PRESENT)
