"""Selects the rows of the present plan. Reports leave out rows that only an earlier version of the spec asked for."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from study.errors import StudyError
from study.planning.plan import Finished, Plan
from study.results.scanning import scan_cached
from study.spec.schema import Spec
from study.storage import json_file
from study.storage.run_folder import RunFolder


@dataclass(frozen=True)
class _Planned:
    """The content of planned.json: the ids of the crafts (attack runs) in the present plan."""

    crafts: list[str]


def rows(run: str | RunFolder) -> pl.LazyFrame:
    """Return the rows of all crafts (attack runs) in the present plan, as a lazy frame.

    Rows that only an earlier plan asked for are left out. `study.results.scanning.scan` returns those too. Raises
    StudyError if there is no run, or its planned.json is damaged.
    """
    folder = run if isinstance(run, RunFolder) else RunFolder(run)
    crafts = _planned(folder)
    found = scan_cached(folder.path)
    return found if crafts is None else found.filter(pl.col("craft").is_in(sorted(crafts)))


def asked_for(found: pl.LazyFrame, spec: Spec, run: str | RunFolder) -> pl.LazyFrame:
    """Return the rows that the experiments of `spec` ask for.

    If the budget of an attack is matched to the RMSD of a reference attack, the rows of the reference attack are also
    returned. Rows of any other attack run or target are left out, because `spec` no longer has them. `found`: the
    result of `rows(run)`.

    Raises StudyError if two attack runs have the same sources, attack, goal, seed and target. This happens if a launch
    was stopped before it recorded a new plan.
    """
    wanted = set(_requests(spec))
    pairs = found.group_by("craft", "target").agg(pl.col("unit").first()).collect(engine="streaming")
    # Read the sources of each attack run from only one of its units, because lists of sources are slow to scan.
    units, craft = pairs["unit"].unique().implode(), pl.col("sources", "attack", "goal", "seed").first()
    crafts = found.filter(pl.col("unit").is_in(units)).group_by("craft").agg(craft).collect(engine="streaming")
    pairs = pairs.drop("unit").join(crafts, on="craft")
    kept: list[tuple[str, str]] = []
    owners: dict[tuple[object, ...], str] = {}
    for name, target, sources, *rest in pairs.sort("craft", "target").iter_rows():
        request = ("+".join(sources), *rest, target)
        if request not in wanted:
            continue
        if owners.setdefault(request, name) != name:
            raise StudyError(
                f"the run has rows of two versions of the same attack run, {owners[request]} and {name}",
                where=str(run.path if isinstance(run, RunFolder) else run),
                todo="launch the study again: the launch records which of the two belongs to the present spec",
                status=1,
            )
        kept.append((name, target))
    if len(kept) == pairs.height:
        return found
    chosen = pl.LazyFrame(kept, schema={"craft": pl.String, "target": pl.String}, orient="row")
    return found.join(chosen, on=["craft", "target"], how="semi")


def _requests(spec: Spec) -> Iterator[tuple[object, ...]]:
    """Yield (sources joined by `+`, attack, goal, seed, target) for every planned attack run and each target."""
    for experiment in spec.experiments.values():
        attacks = list(experiment.attacks)
        for name in attacks:
            reference = spec.attacks[name].budget.to
            if reference is not None and reference not in attacks:
                attacks.append(reference)
        seeds = spec.seeds_of(experiment)
        for one in spec.source_sets(experiment):
            yield from itertools.product(
                ["+".join(one)], attacks, experiment.goal, seeds, spec.targets(experiment, one)
            )


def record(plan: Plan, finished: Finished, folder: RunFolder) -> int:
    """Return the number of crafts (attack runs) that have finished units in the run, but are not in the plan.

    If there are such crafts, write the ids of the plan's crafts to planned.json. If planned.json already exists, it is
    always replaced by the ids of this plan.
    """
    others = {unit.rpartition(".")[0] for unit in finished} - plan.crafts.keys()
    recorded = _planned(folder)
    if (others or recorded is not None) and recorded != plan.crafts.keys():
        folder.write_json(folder.planned, {"crafts": list(plan.crafts)})
    return len(others)


def _planned(folder: RunFolder) -> set[str] | None:
    """Return the ids of the crafts in planned.json; None if the file does not exist.

    Without the file, every row of the run belongs to a craft of the present plan.
    """
    try:
        found = json_file.read(
            folder.planned, _Planned, todo="remove the file and launch the study again: the launch writes a new one"
        )
    except FileNotFoundError:
        return None
    return set(found.crafts)
