"""Versions of the columns of rows. A scan converts rows of older versions to the present columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

from study.errors import StudyError
from study.results.schema import SCHEMA, SCHEMA_VERSION
from study.storage.part_file import parse_name

PRESENT = pl.DataFrame(SCHEMA.empty_table()).schema
"""The present columns."""

METADATA = b"study.schema_version"
"""The key of the version in a part's Parquet metadata."""

GRADED = 3
"""The first version whose rows distinguish grey-box from black-box targets."""


@dataclass(frozen=True)
class Migration:
    """The step from a version to the next one.

    Attributes:
        before: Derives the columns of the older version from those of the newer version.
        bring: Converts rows of the older version to the newer version.
    """

    before: Callable[[pl.Schema], pl.Schema]
    bring: Callable[[pl.LazyFrame], pl.LazyFrame]


def _without(*columns: str) -> Callable[[pl.Schema], pl.Schema]:
    return lambda schema: pl.Schema({name: kind for name, kind in schema.items() if name not in columns})


def _with_white_box(schema: pl.Schema) -> pl.Schema:
    older: dict[str, pl.DataType] = {}
    for name, kind in schema.items():
        older["white_box" if name == "relation" else name] = pl.Boolean() if name == "relation" else kind
    return pl.Schema(older)


MIGRATIONS: dict[int, Migration] = {
    1: Migration(_without("top1"), lambda rows: rows.with_columns(top1=pl.col("top5").list.first())),
    2: Migration(
        _with_white_box,
        lambda rows: rows.with_columns(
            relation=pl.when("white_box").then(pl.lit("white")).otherwise(pl.lit("black"))
        ).drop("white_box"),
    ),
    3: Migration(
        _without("ssim", "ciede2000", "craft_pass", "predict_pass"),
        lambda rows: rows.with_columns(
            pl.lit(None, pl.Float64).alias("ssim"),
            pl.lit(None, pl.Float64).alias("ciede2000"),
            pl.lit(None, pl.Int32).alias("craft_pass"),
            pl.lit(None, pl.Int32).alias("predict_pass"),
        ),
    ),
    4: Migration(
        _without("true_names", "sentence", "refused", "queries", "lpips"),
        lambda rows: rows.with_columns(
            pl.lit(None, pl.List(pl.String)).alias("true_names"),
            pl.lit(None, pl.String).alias("sentence"),
            pl.lit(None, pl.Boolean).alias("refused"),
            pl.lit(None, pl.Int32).alias("queries"),
            pl.lit(None, pl.Float64).alias("lpips"),
        ),
    ),
}
"""The migration from each older version, by version. Rows of versions 1 and 2 call grey-box
targets black-box; `study.results.scanning` corrects them with the spec."""


def part_version(name: str, run: object) -> int:
    """The version of the part called `name`; 1 if `name` is not the name of a part.

    Raises StudyError if this installation does not know the version.
    """
    parsed = parse_name(name)
    version = 1 if parsed is None else parsed.version
    if version > SCHEMA_VERSION:
        raise StudyError(
            f"the rows of {name} have version {version}, which this version of study cannot read",
            where=str(run),
            accepted=f"versions 1 to {SCHEMA_VERSION}",
            todo="install the version of study that wrote the part, or a later one",
        )
    return version


def columns(version: int) -> pl.Schema:
    """The columns of parts of `version`."""
    schema = PRESENT
    for older in range(SCHEMA_VERSION - 1, version - 1, -1):
        schema = MIGRATIONS[older].before(schema)
    return schema


def forward(rows: pl.LazyFrame, version: int, *extra: str) -> pl.LazyFrame:
    """Convert rows of `version` to the present columns, in their order, followed by the columns `extra`."""
    for older in range(version, SCHEMA_VERSION):
        rows = MIGRATIONS[older].bring(rows)
    return rows if version == SCHEMA_VERSION else rows.select(*PRESENT.names(), *extra).cast(PRESENT)
