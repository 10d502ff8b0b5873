"""What is logged, as dictionaries: rows of history that content decides, rows about the present, and tables."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from study.analysis.intervals import wilson
from study.tracking.ledger import Counts, Due, Ledger
from study.tracking.outline import Outline, unique
from study.tracking.tallies import MICRO

MOST_CURVES = 400
"""Cells that have curves of their own. Beyond, W&B's pages get slow: there are only tables and sums then."""

_MOST_SLOTS = 64
_WINDOW = 60.0


class Content:
    """Rows of history that depend on nothing but which units they are about."""

    def __init__(self, outline: Outline) -> None:
        self._outline = outline
        self._keys = unique([cell.key for cell in outline.cells])
        self._curves = len(outline.cells) <= MOST_CURVES
        self._sums = _sums(outline)

    def row(self, due: Due) -> dict[str, float | int]:
        """`units`, `images` and `gradients` so far; `transfer/<experiment>-<goal>/black_box`, `grey_box` and
        `white_box`, over all crafts of the experiment at the end of their steps, shown to its targets; and of every
        cell that changed, where there are few enough cells, `success/<cell>`, `success_low/<cell>`,
        `success_high/<cell>` (Wilson, 95 %), `rmsd/<cell>`.
        """
        images, gradients = self._outline.done_at(due.units)
        row: dict[str, float | int] = {"units": due.units, "images": images, "gradients": gradients}
        for name, cells in self._sums.items():
            count, hits, _ = due.counts[cells].sum(axis=0).tolist()
            if count:
                row[f"transfer/{name}"] = hits / count
        if self._curves and due.changed:
            counts = due.counts[list(due.changed)]
            for number, rate in zip(due.changed, rates(counts).iter_rows(named=True), strict=True):
                key = self._keys[number]
                row[f"success/{key}"] = rate["success"]
                row[f"success_low/{key}"] = rate["low"]
                row[f"success_high/{key}"] = rate["high"]
                row[f"rmsd/{key}"] = rate["rmsd"]
        return row


def _sums(outline: Outline) -> dict[str, NDArray[np.int64]]:
    """The cells that are added up under one name."""
    sums: dict[str, list[int]] = {}
    for number, cell in enumerate(outline.cells):
        if cell.point == len(cell.craft.points) - 1:
            box = f"{cell.craft.relations[cell.target]}_box"
            for experiment, targets in cell.craft.experiments:
                if cell.craft.targets[cell.target] in targets:
                    sums.setdefault(f"{experiment}-{cell.craft.goal}/{box}", []).append(number)
    return {name: np.array(cells) for name, cells in sums.items()}


def rates(counts: Counts) -> pl.DataFrame:
    """`images`, `hits`, `success`, `low`, `high` (0..1) and mean `rmsd` (pixel values) of each row; null without
    images."""
    images, hits, moved = (pl.Series(name, counts[:, column]) for column, name in enumerate(("images", "hits", "rmsd")))
    low, high = wilson(pl.col("hits"), pl.col("images"))
    some = pl.col("images") > 0
    return pl.DataFrame([images, hits, moved]).select(
        "images",
        "hits",
        pl.when(some).then(pl.col("hits") / pl.col("images")).alias("success"),
        low.alias("low"),
        high.alias("high"),
        pl.when(some).then(pl.col("rmsd") / pl.col("images") / MICRO).alias("rmsd"),
    )


def cells(outline: Outline, counts: Counts) -> pl.DataFrame:
    """Every cell: what it is about, and its `rates`."""
    about = pl.DataFrame(
        [
            (cell.craft.sources, cell.craft.attack, cell.craft.goal, cell.craft.seed, *cell.craft.points[cell.point],
             cell.craft.targets[cell.target], cell.craft.relations[cell.target])
            for cell in outline.cells
        ],
        schema={
            "sources": pl.String, "attack": pl.String, "goal": pl.String, "seed": pl.Int64, "steps": pl.Int64,
            "budget": pl.Float64, "target": pl.String, "relation": pl.String,
        },
        orient="row",
    )  # fmt: skip
    return about.hstack(rates(counts))


class Speed:
    """Units, images and gradients per second over the last minute, of one launch."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._marks: deque[tuple[float, int, int]] = deque()

    def add(self, images: int, gradients: int) -> None:
        """A unit has finished now."""
        self._marks.append((time.monotonic(), images, gradients))

    def row(self) -> dict[str, float]:
        now = time.monotonic()
        while self._marks and now - self._marks[0][0] > _WINDOW:
            self._marks.popleft()
        seconds = max(min(now - self._began, _WINDOW), 1.0)
        return {
            "live/units_per_second": len(self._marks) / seconds,
            "live/images_per_second": sum(images for _, images, _ in self._marks) / seconds,
            "live/gradients_per_second": sum(gradients for _, _, gradients in self._marks) / seconds,
        }


def live(outline: Outline, ledger: Ledger, speed: Speed, state: Mapping[str, Any], failures: int) -> dict[str, float]:
    """How it stands at this moment; `state` is `study.events.observer.State` as a mapping, or empty."""
    row = speed.row()
    whole = ledger.whole()
    left, pace = float(outline.gradients[~whole].sum()), row["live/gradients_per_second"]
    if not left:
        left, pace = float((~whole).sum()), row["live/units_per_second"]
    row["live/units_done"] = int(whole.sum())
    row["live/failures"] = failures
    if pace > 0:
        row["live/eta_seconds"] = left / pace
    if state:
        slots = state["slots"]
        up = [slot for slot in slots if slot["up"]]
        row["live/busy"] = sum(slot["busy_share"] for slot in up) / len(up) if up else 0.0
        row["live/queued_calls"] = sum(slot["queued"] for slot in slots)
        row["live/waiting_mib"] = state["waiting_bytes"] / 2**20
        row["live/retries"] = state["failed_calls"]
        for name in ("waiting_crafts", "waiting_batches", "calls", "lost_actors", "repeated"):
            row[f"live/{name}"] = state[name]
        for slot in slots[:_MOST_SLOTS]:
            row[f"slots/{slot['id']}/busy"] = slot["busy_share"]
            row[f"slots/{slot['id']}/queued"] = slot["queued"]
    return row
