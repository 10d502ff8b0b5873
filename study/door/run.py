"""`study.load` opens a run as an object, to read its spec, rows, transfer matrices and kept images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import polars as pl

from study.analysis.experiments import averaged, cells, of_experiment, with_level
from study.door.adversarial_images import AdversarialImages, read_images
from study.door.choices import chosen, options_of
from study.errors import StudyError, names
from study.planning.relation import RELATIONS, Relation
from study.report.matrix_rows import matrix_rows
from study.results import current_plan, integrity
from study.results.run_reader import RunData, open_run
from study.results.scanning import collect
from study.spec.schema import Experiment, Spec
from study.storage.run_folder import RunFolder

_ROW_ORDER = ("craft", "steps", "budget", "target", "image")
_COUNTS = ("sources", "seeds", "images")
"""The columns of a matrix that come before the columns of its targets."""


class Run:
    """The state of a run, complete or not, when the run was loaded. The methods never write into the run folder.

    If a launch adds rows later, load the run again to see the new rows.
    """

    def __init__(self, folder: RunFolder, data: RunData) -> None:
        """Do not call this directly: `study.load` makes a `Run`."""
        self._folder = folder
        self._data = data
        self._scanned = current_plan.asked_for(data.rows, data.spec, folder)
        self._rows: pl.DataFrame | None = None

    def __repr__(self) -> str:
        return f"Run({self.folder!r}: study {self.spec.study!r}, {len(self.experiments)} experiments)"

    @property
    def folder(self) -> str:
        """The path of the run folder, or its address in an object store."""
        return str(self._folder.path)

    @property
    def spec(self) -> Spec:
        """The resolved spec of the run, with every preset written out."""
        return self._data.spec

    @property
    def experiments(self) -> Mapping[str, Experiment]:
        """The experiments of the spec, by name."""
        return MappingProxyType(self.spec.experiments)

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models, in the order of the spec."""
        return tuple(self.spec.models)

    @property
    def rows(self) -> pl.DataFrame:
        """The rows that the spec asks for, sorted: one row for each adversarial image and target.

        Rows that only an earlier version of the spec asked for are left out. `study.results.schema.SCHEMA` describes
        the columns. `study.analysis` has functions for these rows. Equal studies give equal rows. For a run that does
        not fit into memory, use `scan`. Raises StudyError if a Parquet file is damaged.
        """
        if self._rows is None:
            self._rows = collect(self.folder, self._scanned).sort(_ROW_ORDER)
        return self._rows.clone()

    def scan(self) -> pl.LazyFrame:
        """Return the rows of `rows` as a lazy polars query, in no particular order. Its method `collect` reads them."""
        return self._scanned

    def matrix(
        self,
        experiment: str,
        *,
        attack: str | None = None,
        goal: Literal["untargeted", "targeted"] | None = None,
        budget: float | None = None,
        steps: int | None = None,
        seed: int | Literal["mean"] | None = None,
        relation: Relation | None = None,
    ) -> pl.DataFrame:
        """Return the success rates of one attack: a row for each set of source models, a column for each target.

        Args:
            experiment: The name of an experiment of the spec.
            attack: The name of an attack of the experiment.
            goal: `untargeted`: an image succeeds if the target does not predict the true label; `targeted`: an image
                succeeds if the target predicts the target label.
            budget: The length of the budget, in pixel values.
            steps: The number of steps.
            seed: A seed, or "mean" for the mean of the rates over all seeds.
            relation: Keep only rates of targets with this relation to the sources. "black" keeps black-box transfer.

        An argument is optional if the experiment has a single value for it. Rates of several attacks, goals, budgets,
        numbers of steps or seeds are never mixed. If there are several and the argument is None, the method raises
        StudyError, which lists the choices.

        The columns are `sources` (names joined by `+`), `seeds` and `images` (both `uint32`), and one column for each
        target (`float64`). `seeds` and `images` are the number of seeds and of clean images behind the rates of the
        row. If these numbers differ between targets, the smallest number is used. A rate is in 0..1. A rate is null if
        the run has no rows for it, or if `relation` leaves it out. `study show` prints the same rates.

        Raises StudyError if the choice is not unique, or if the experiment is unknown or has no rows yet.
        """
        spec = self.spec
        if experiment not in spec.experiments:
            raise StudyError(
                f"there is no experiment '{experiment}' in this run",
                where="run.matrix",
                accepted=names(spec.experiments, experiment),
            )
        if relation is not None and relation not in RELATIONS:
            raise StudyError(
                f"there is no relation {relation!r}",
                where="run.matrix(relation=…)",
                accepted=names(RELATIONS, relation),
            )
        asked = {"attack": attack, "goal": goal, "seed": seed, "steps": steps, "budget": budget}
        options = options_of(spec, [experiment])
        left = chosen(options, asked, of=f"experiment '{experiment}'", call="run.matrix", mean=True)
        one = left[0]
        points = pl.col("level").is_null() if one.budget is None else pl.col("level") == one.budget
        with integrity.reading(self.folder):
            found = of_experiment(self._scanned, spec, experiment, one.goal)
            found = with_level(found, spec).filter(
                points, pl.col("seed").is_in(list({each.seed for each in left})), attack=one.attack, steps=one.steps
            )
            rates = averaged(cells(found, spec))
        return self._matrix(experiment, one.goal, rates, relation)

    def _matrix(self, experiment: str, goal: str, rates: pl.DataFrame, relation: Relation | None) -> pl.DataFrame:
        """Return the matrix of `rates`, which are the rates of one attack at one number of steps and one budget."""
        targets = self.spec.targets(self.spec.experiments[experiment])
        clash = [name for name in targets if name in _COUNTS]
        if clash:
            raise StudyError(
                f"a target has the name '{clash[0]}', which another column of the matrix has",
                todo="use study.analysis.success_rates(run.scan())",
            )
        found = []
        for row in matrix_rows(self.spec, experiment, goal, rates):
            known = [cell for cell in row.cells if cell is not None]
            counts = {count: min(cell[count] for cell in known) for count in _COUNTS[1:]}
            shown = [
                cell["success"] if cell is not None and relation in (None, cell["relation"]) else None
                for cell in row.cells
            ]
            found.append({"sources": row.sources, **counts, **dict(zip(targets, shown, strict=True))})
        if not found:
            raise StudyError(
                f"the run has no rows for these choices in experiment '{experiment}' yet",
                where=self.folder,
                todo="launch the study",
                status=1,
            )
        schema = {"sources": pl.String, "seeds": pl.UInt32, "images": pl.UInt32, **dict.fromkeys(targets, pl.Float64)}
        return pl.DataFrame(found, schema=schema)

    def images(
        self,
        attack: str | None = None,
        *,
        sources: str | Sequence[str] | None = None,
        goal: Literal["untargeted", "targeted"] | None = None,
        seed: int | None = None,
        steps: int | None = None,
        budget: float | None = None,
    ) -> AdversarialImages:
        """Return the adversarial images of one attack on one set of source models, which the run must have kept.

        A run keeps images if its spec has `run: {keep_images: true}`. `sources`: the names of the source models, as a
        list or joined by `+`. An argument is optional if the run has a single value for it. The clean images are read
        again from the files of the image set. Raises StudyError if several choices are left, if the images were not
        kept, or if a clean image is missing or has changed.
        """
        named = sources.split("+") if isinstance(sources, str) else sources
        joined = None if named is None else "+".join(sorted(set(named)))
        asked = {"attack": attack, "sources": joined, "goal": goal, "seed": seed, "steps": steps, "budget": budget}
        (option,) = chosen(options_of(self.spec, list(self.experiments)), asked, of="the run", call="run.images")
        with integrity.reading(self.folder):
            return read_images(self._folder, self._data, self._scanned, option)


def load(run: str | os.PathLike[str]) -> Run:
    """Open a run folder, or s3://bucket/prefix, for reading, whether its study is complete or not.

    Raises StudyError if there is no run, or if the run is damaged.
    """
    address = os.fspath(run)
    with integrity.reading(address):
        return Run(RunFolder(address), open_run(address))
