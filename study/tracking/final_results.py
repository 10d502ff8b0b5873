"""The final results that are logged when a launch has ended: a table of all cells, and the matrix as a picture.

A cell is one target and one attack run, at one number of steps and one budget.
"""

from __future__ import annotations

import io

import polars as pl

from study.analysis.rates import success_rates
from study.results.run_reader import open_run

MOST_ROWS = 10_000
"""The largest number of cells in the table on W&B. The file cells.csv has all cells."""

_COLUMNS = ("sources", "attack", "goal", "seed", "steps", "budget", "target", "relation", "images", "hits", "success",
            "low", "high", "rmsd")  # fmt: skip
_MOST_LINES, _MOST_TARGETS, _MOST_LETTERS = 60, 24, 7
_CELL, _FULL = (46, 18), (20, 64, 128)


def cells(run: str) -> pl.DataFrame:
    """Return a table with one row for each cell of the run in folder `run`.

    The key of a cell has the columns `sources`, `attack`, `goal`, `seed`, `steps`, `budget` and `target`. `budget` is
    null if the attack searches for its budget. Further columns are `relation`, `images`, `hits` (the number of
    successful images), `success` (the success rate, 0..1), `low` and `high` (its interval), and `rmsd` (the mean, in
    pixel values 0..255). Raises StudyError if the run cannot be read.
    """
    finished = open_run(run)
    searches = [name for name, attack in finished.spec.attacks.items() if attack.budget.minimal]
    budget = pl.when(pl.col("attack").is_in(searches)).then(None).otherwise("budget")
    return success_rates(finished.rows.with_columns(budget=budget)).select(_COLUMNS)


def matrix(cells: pl.DataFrame) -> bytes:
    """Draw the success rates in percent as a PNG, and return its bytes. Higher rates are darker.

    The rows are the first 60 combinations of attack run, steps and budget. The columns are the first 24 targets. The
    launch waits for the picture, so PIL draws it: matplotlib would take half a second.
    """
    from PIL import Image, ImageDraw, ImageFont

    keys = ("sources", "attack", "goal", pl.format("s{}", "seed"), "steps", "budget")
    name = pl.concat_str(*keys, separator=" ", ignore_nulls=True)
    wide = cells.with_columns(name=name).pivot("target", index="name", values="success", aggregate_function="first")
    rates = wide.drop("name")[:_MOST_LINES, :_MOST_TARGETS]
    labels, font = wide["name"].head(_MOST_LINES).to_list(), ImageFont.load_default(11)
    left = 10 + int(max((font.getlength(label) for label in labels), default=0))
    width, height = _CELL
    picture = Image.new("RGB", (left + width * rates.width, height * (rates.height + 1)), "white")
    draw = ImageDraw.Draw(picture)
    for column, target in enumerate(rates.columns):
        draw.text((left + column * width, 3), target[:_MOST_LETTERS], fill="black", font=font)
    for line, (label, row) in enumerate(zip(labels, rates.iter_rows(), strict=True), 1):
        draw.text((4, line * height + 3), label, fill="black", font=font)
        for column, rate in enumerate(row):
            if rate is not None:
                x, y, ink = left + column * width, line * height, "white" if rate > 0.5 else "black"
                shade = tuple(round(255 + (full - 255) * rate) for full in _FULL)
                draw.rectangle((x, y, x + width - 2, y + height - 2), fill=shade)
                draw.text((x + 8, y + 3), f"{100 * rate:.0f}", fill=ink, font=font)
    written = io.BytesIO()
    picture.save(written, "PNG")
    return written.getvalue()
