"""Versions of the columns of rows: converts rows of older versions to the present columns when they are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

from study.errors import StudyError
from study.results.schema import SCHEMA, SCHEMA_VERSION
from study.storage.part_file import parse_name

PRESENT = pl.DataFrame(SCHEMA.empty_table()).schema
"""The present columns of a row, with their types."""

METADATA = b"study.schema_version"
"""The key in a part's Parquet metadata whose value is the version of the columns."""

GRADED = 3
"""The first version whose rows distinguish grey-box from black-box targets."""


@dataclass(frozen=True)
class Migration:
    """The conversion between a version of the columns and the next version.

    Attributes:
        before: Returns the columns of the older version, given the columns of the newer version.
        bring: Converts rows of the older version to rows of the newer version.
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
"""The migration from each older version to the next version. The key is the older version.

Rows of versions 1 and 2 record grey-box targets as black-box. `study.results.scanning` corrects these rows with the
spec."""


def part_version(name: str, run: object) -> int:
    """Return the version of the part called `name`; 1 if `name` is not the name of a part.

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
    """Return the columns of parts of `version`, with their types."""
    schema = PRESENT
    for older in range(SCHEMA_VERSION - 1, version - 1, -1):
        schema = MIGRATIONS[older].before(schema)
    return schema


def forward(rows: pl.LazyFrame, version: int, *extra: str) -> pl.LazyFrame:
    """Return rows of `version`, converted to the present columns in their present order.

    The columns named in `extra` are kept, after all other columns.
    """
    for older in range(version, SCHEMA_VERSION):
        rows = MIGRATIONS[older].bring(rows)
    return rows if version == SCHEMA_VERSION else rows.select(*PRESENT.names(), *extra).cast(PRESENT)
