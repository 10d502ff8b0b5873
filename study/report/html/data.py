"""What the report is made from: a run's cells, counted once, and what stands beside its rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from study.analysis import experiments
from study.attacks import Attack
from study.images.selection import Selected
from study.report.failures import of_launch
from study.report.tables.matrices import _variant as variant
from study.results import scanning
from study.results.run_reader import RunData, open_run
from study.results.schema import SCHEMA_VERSION
from study.spec.schema import Experiment, Spec
from study.storage import part_file
from study.storage.paths import StoragePath
from study.storage.run_folder import RunFolder
from study.storage.s3_path import S3Path, scan_options


@dataclass(frozen=True)
class Gathered:
    """A run as its report sees it.

    `cells` has a row for each craft, point and target: `craft`, `sources` (joined by `+`), `attack`, `goal`, `seed`,
    `steps`, `level` (the budget; null where each target searched for its own), `gradients` (of one image), `target`,
    then the columns of `success_rates`. `units` are those with rows; `provenance` what the parts say that their rows
    depend on, each combination once; `failures` what the last launch set aside.
    """

    run: str
    finished: RunData
    images: Sequence[Selected]
    cells: pl.DataFrame
    units: int
    provenance: Sequence[Mapping[str, str]]
    failures: Sequence[Mapping[str, Any]]

    @property
    def spec(self) -> Spec:
        return self.finished.spec

    @cached_property
    def rows(self) -> pl.LazyFrame:
        """The rows, with `level`."""
        return experiments.with_level(self.finished.rows, self.spec)

    @cached_property
    def count(self) -> int:
        """All rows."""
        return int(self.cells["images"].sum())

    @cached_property
    def crafts(self) -> pl.DataFrame:
        """`craft`, `sources`, `attack`, `goal`, `seed`, and `gradients`: what its images with rows cost together."""
        whose = ["craft", "sources", "attack", "goal", "seed"]
        cost = pl.col("gradients").max() * pl.col("images").max()
        return self.cells.group_by(whose).agg(cost.alias("gradients")).sort(whose)

    def of(self, experiment: str, goal: str | None = None) -> pl.DataFrame:
        """The cells of an experiment, or of one of its goals."""
        return experiments.of_experiment(self.cells, self.spec, experiment, goal)

    def rows_of(self, cells: pl.DataFrame, crafts: Sequence[str] | None = None) -> pl.LazyFrame:
        """The rows behind `cells`, or of some of their crafts; what needs no filter has none."""
        rows = self.finished.rows
        wanted = set(cells["craft"].to_list() if crafts is None else crafts)
        targets = set(cells["target"].to_list())
        if len(wanted) < self.cells["craft"].n_unique():
            rows = rows.filter(pl.col("craft").is_in(sorted(wanted)))
        if len(targets) < self.cells["target"].n_unique():
            rows = rows.filter(pl.col("target").is_in(sorted(targets)))
        return rows

    @cached_property
    def missing(self) -> Mapping[str, tuple[int, int]]:
        """By experiment, how many rows there are, and how many there will be; with those its budgets are matched to."""
        there: dict[tuple[object, ...], int] = {
            (one["sources"], one["attack"], one["goal"], one["seed"], one["steps"], one["level"], one["target"]): one[
                "images"
            ]
            for one in self.cells.iter_rows(named=True)
        }
        selected, found = self.finished.selected, {}
        for name, experiment in self.spec.experiments.items():
            planned = list(self._planned(experiment))
            have = sum(min(there.get(key, 0), selected) for key in planned)
            found[name] = (have, len(planned) * selected)
        return found

    def _planned(self, experiment: Experiment) -> Iterator[tuple[object, ...]]:
        attacks = list(dict.fromkeys(experiment.attacks))
        for name in attacks:
            to = self.spec.attacks[name].budget.to
            if to is not None and to not in attacks:
                attacks.append(to)
        for sources in self.spec.source_sets(experiment):
            for name in attacks:
                for goal in dict.fromkeys(experiment.goal):
                    for seed in self.spec.seeds_of(experiment):
                        for steps, level in self.spec.attacks[name].points:
                            for target in self.spec.targets(experiment):
                                yield ("+".join(sources), name, goal, seed, steps, level, target)


def points(spec: Spec, attacks: Sequence[str]) -> Iterator[tuple[str, str, int, float | None]]:
    """Every point of the attacks, in the spec's order: what it is called, attack, steps, level."""
    for name in dict.fromkeys(attacks):
        recipe: Attack = spec.attacks[name]
        for steps, level in recipe.points:
            yield variant(name, recipe, steps, level), name, steps, level


def gather(run: str, spec: Path | None = None) -> Gathered:
    """Read all that a report is about. Raises StudyError where there is no run, or it cannot be read."""
    folder = RunFolder(run)
    finished = open_run(run, spec)
    cells = experiments.cells(finished.rows, finished.spec, also=("craft", "gradients"))
    units = finished.rows.group_by("craft").agg(pl.col("unit").n_unique()).collect(engine="streaming")
    images = [one for shard in finished.selection.shards for one in shard.images]
    return Gathered(
        run,
        finished,
        images,
        cells,
        int(units["unit"].sum()),
        _provenance(run),
        [asdict(one) for one in of_launch(folder)],
    )


def _provenance(run: str) -> list[Mapping[str, str]]:
    """What the parts' metadata say, each combination once, in the order of the parts, and when they were published."""
    found: dict[str, dict[str, str]] = {}
    written: dict[str, list[int]] = {}
    for part in scanning.parts(run):
        said = part_file.parse_name(part.name)
        if said is None or said.version > SCHEMA_VERSION:
            continue
        shown = {key: value for key, value in sorted(_metadata(part).items()) if key != "ARROW:schema"}
        found.setdefault(json.dumps(shown), shown)
        written.setdefault(json.dumps(shown), []).append(said.written)
    for key, times in written.items():
        first, last = (f"{datetime.fromtimestamp(at / 1e9, UTC):%Y-%m-%d %H:%M}" for at in (min(times), max(times)))
        found[key]["published"] = f"{first} to {last} UTC, {len(times):,} parts"
    return list(found.values())


def _metadata(part: StoragePath) -> dict[str, str]:
    remote = isinstance(part, S3Path)
    return dict(pl.read_parquet_metadata(str(part), storage_options=scan_options() if remote else None))
