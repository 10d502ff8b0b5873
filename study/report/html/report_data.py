"""Reads the data of a report: the success rates of a run, computed once, and the records about its rows."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import polars as pl

from study.analysis import experiments
from study.analysis.visibility import visibility
from study.images.selection import Selected
from study.report.failures import RecordedFailure, failures_of_last_launch
from study.results import scanning
from study.results.run_reader import RunData, open_run
from study.results.schema import SCHEMA_VERSION
from study.spec.schema import Experiment, Spec
from study.storage import part_file
from study.storage.paths import StoragePath
from study.storage.run_folder import RunFolder
from study.storage.s3_path import S3Path, scan_options


@dataclass(frozen=True)
class ReportData:
    """The data of a run for its report.

    Attributes:
        run: The address of the run.
        finished: The content of the run.
        cells: The success rates: one row per craft (attack run), point (steps and budget) and target. Columns: `craft`,
            `sources` (joined by `+`), `attack`, `goal`, `seed`, `steps`, `level` (the budget; null if the attack
            searches its budget for each target), `gradients` (per image), `target`, then those of `success_rates`.
        units: The number of units with rows. A unit is one attack run on one shard of images.
        provenance: The metadata records of the parts (Parquet files of rows). Equal records occur once.
        failures: The recorded failures of the last launch.
    """

    run: str
    finished: RunData
    cells: pl.DataFrame
    units: int
    provenance: Sequence[Mapping[str, str]]
    failures: Sequence[RecordedFailure]

    @property
    def spec(self) -> Spec:
        return self.finished.spec

    @property
    def images(self) -> list[Selected]:
        """The selected images."""
        return [image for shard in self.finished.selection.shards for image in shard.images]

    @property
    def row_count(self) -> int:
        return int(self.cells["images"].sum())

    @cached_property
    def crafts(self) -> pl.DataFrame:
        """A frame with one row per craft (attack run).

        Columns: `craft`, `sources`, `attack`, `goal`, `seed`, and `gradients` (their number, summed over all images
        that have rows).
        """
        keys = ["craft", "sources", "attack", "goal", "seed"]
        cost = pl.col("gradients").max() * pl.col("images").max()
        return self.cells.group_by(keys).agg(cost.alias("gradients")).sort(keys)

    def cells_of(self, experiment: str, goal: str | None = None) -> pl.DataFrame:
        """Return the success rates (`cells`) of an experiment, or only those of one of its goals."""
        return experiments.of_experiment(self.cells, self.spec, experiment, goal)

    def averages_of(self, experiment: str) -> pl.DataFrame:
        """Return the success rates of an experiment, averaged over seeds."""
        return experiments.averaged(self.cells_of(experiment))

    @cached_property
    def seen(self) -> Mapping[str, pl.DataFrame]:
        """The success, cost and visibility of attacks (the result of `analysis.visibility`), by experiment."""
        return {
            name: visibility(self.finished.rows, self.averages_of(name), self.spec, name)
            for name in self.spec.experiments
        }

    def rows_of(self, cells: pl.DataFrame, crafts: Sequence[str] | None = None) -> pl.LazyFrame:
        """Return the rows from which `cells` were computed, or only the rows of the attack runs `crafts`.

        A filter that would remove no row is not applied, because it would only read a further column.
        """
        rows = self.finished.rows
        wanted = set(cells["craft"] if crafts is None else crafts)
        targets = set(cells["target"])
        if len(wanted) < self.cells["craft"].n_unique():
            rows = rows.filter(pl.col("craft").is_in(sorted(wanted)))
        if len(targets) < self.cells["target"].n_unique():
            rows = rows.filter(pl.col("target").is_in(sorted(targets)))
        return rows

    @cached_property
    def progress(self) -> Mapping[str, tuple[int, int]]:
        """The number of existing rows and the number of planned rows, by experiment.

        If the budget of an attack is matched to the RMSD of another attack, the rows of that other attack also count.
        """
        keys = ("sources", "attack", "goal", "seed", "steps", "level", "target")
        images = {tuple(cell[key] for key in keys): cell["images"] for cell in self.cells.iter_rows(named=True)}
        selected, found = self.finished.selected, {}
        for name, experiment in self.spec.experiments.items():
            planned = list(self._planned(experiment))
            found[name] = (sum(min(images.get(key, 0), selected) for key in planned), len(planned) * selected)
        return found

    def _planned(self, experiment: Experiment) -> Iterator[tuple[object, ...]]:
        spec = self.spec
        attacks = list(dict.fromkeys(experiment.attacks))
        # The list grows in the loop, because the budget of an added attack may be matched to a further attack.
        for name in attacks:
            to = spec.attacks[name].budget.to
            if to is not None and to not in attacks:
                attacks.append(to)
            for sources in spec.source_sets(experiment):
                for goal, seed, (steps, level), target in itertools.product(
                    dict.fromkeys(experiment.goal),
                    spec.seeds_of(experiment),
                    spec.attacks[name].scored_points,
                    spec.targets(experiment, sources),
                ):
                    yield ("+".join(sources), name, goal, seed, steps, level, target)

    def code(self, line: str) -> str:
        """Return Python code that reads the run as `rows` and `spec`, and then evaluates `line`."""
        return (
            "import study\nfrom study import analysis\n"
            f"run = study.load({self.run!r})\nrows, spec = run.scan(), run.spec\n{line}"
        )


def read_report_data(run: str, spec: Path | None = None) -> ReportData:
    """Return the data of the run at `run` for its report. `spec` replaces the run's own spec, as in `open_run`.

    Raises StudyError if the run is missing or damaged.
    """
    finished = open_run(run, spec)
    cells = experiments.cells(finished.rows, finished.spec, also=("craft", "gradients"))
    units = finished.rows.group_by("craft").agg(pl.col("unit").n_unique()).collect(engine="streaming")
    failures = failures_of_last_launch(RunFolder(run))
    return ReportData(run, finished, cells, int(units["unit"].sum()), _provenance(run), failures)


def _provenance(run: str) -> list[Mapping[str, str]]:
    """Return each distinct metadata record of the run's parts (Parquet files of rows), in the order of the parts.

    The key `published` of a record has the time of the first and of the last part with this record.
    """
    records: dict[str, dict[str, str]] = {}
    written: dict[str, list[int]] = {}
    for part in scanning.parts(run):
        name = part_file.parse_name(part.name)
        if name is None or name.version > SCHEMA_VERSION:
            continue
        record = {key: value for key, value in sorted(_metadata(part).items()) if key != "ARROW:schema"}
        records.setdefault(json.dumps(record), record)
        written.setdefault(json.dumps(record), []).append(name.written)
    for key, times in written.items():
        first, last = (f"{datetime.fromtimestamp(at / 1e9, UTC):%Y-%m-%d %H:%M}" for at in (min(times), max(times)))
        count = f"{len(times):,} part{'s' if len(times) > 1 else ''}"
        records[key]["published"] = f"{first} to {last} UTC, {count}"
    return list(records.values())


def _metadata(part: StoragePath) -> dict[str, str]:
    remote = isinstance(part, S3Path)
    return dict(pl.read_parquet_metadata(str(part), storage_options=scan_options() if remote else None))
