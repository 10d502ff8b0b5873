"""Finds the planned cells of a spec that belong to a selection (`CellSelection`), as in the check of a finding.

A planned cell is one attack with one goal on one source set against one target.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from study.errors import StudyError
from study.papers.finding_spec import Boxes, CellSelection
from study.planning.relation import relation
from study.spec.schema import Spec


@dataclass(frozen=True)
class PlannedCell:
    """A planned cell: one attack with one goal on one source set against one target, with all seeds.

    `sources` are joined by `+`. `points` are the selected points of the attack, as pairs (steps, budget).
    """

    sources: str
    attack: str
    goal: str
    target: str
    seeds: frozenset[int]
    points: tuple[tuple[int, float | None], ...]

    @property
    def key(self) -> tuple[str, str, str, str]:
        return (self.sources, self.attack, self.goal, self.target)


def select(spec: Spec, selection: CellSelection, *, every_step: bool = False) -> list[PlannedCell]:
    """Return the planned cells that a selection contains, each once, in the order of the spec.

    With `every_step`, a cell has all checkpoints of its attack. Otherwise it has only the selected number of steps, by
    default the attack's last step. Raises StudyError if the selection contains no cell.
    """
    wanted = None if selection.sources is None else {"+".join(sorted(set(one))) for one in selection.sources}
    found: dict[tuple[str, str, str, str], PlannedCell] = {}
    for name in spec.experiments if selection.experiment is None else (selection.experiment,):
        for cell in _planned(spec, name, selection.boxes):
            if (
                cell.points
                and (wanted is None or cell.sources in wanted)
                and _among(cell.attack, selection.attacks)
                and _among(cell.target, selection.targets)
                and selection.goal in (None, cell.goal)
            ):
                points = tuple(
                    point
                    for point in cell.points
                    if (every_step or point[0] == (selection.steps or cell.points[-1][0]))
                    and selection.budget in (None, point[1])
                )
                if points:
                    seeds = cell.seeds | (found[cell.key].seeds if cell.key in found else frozenset())
                    found[cell.key] = PlannedCell(*cell.key, seeds, points)
    if not found:
        raise StudyError(
            "this selection matches no planned cell",
            accepted="attacks, sources, targets, goal, steps and budget of an experiment. If `boxes` is absent, only "
            "black-box targets count; for other targets, write `boxes: white`, `grey` or `any`",
        )
    return list(found.values())


def without_transform(spec: Spec, name: str) -> str | None:
    """Return the name of the model in the spec that equals model `name`, but has no transform.

    Return None if the spec has no such model, or if model `name` has no transform.
    """
    model = spec.models[name]
    if model.transform is None:
        return None
    bare = model.without_transform
    return next((other for other, one in spec.models.items() if one == bare), None)


def _planned(spec: Spec, name: str, boxes: Boxes) -> Iterator[PlannedCell]:
    experiment = spec.experiments[name]
    seeds = frozenset(spec.seeds_of(experiment))
    for sources in spec.source_sets(experiment):
        for attack in dict.fromkeys(experiment.attacks):
            for goal in dict.fromkeys(experiment.goal):
                for target in spec.targets(experiment, sources):
                    if boxes in ("any", relation(spec.models, sources, target)):
                        points = tuple(spec.attacks[attack].scored_points)
                        yield PlannedCell("+".join(sources), attack, goal, target, seeds, points)


def _among(name: str, names: Collection[str] | None) -> bool:
    return names is None or name in names
