"""Turn a spec into attack runs and their units.

An attack run (`Craft`) is one attack with one goal and seed on one set of source models. A unit is one attack run on
the images of one shard, with the targets that predict them. A cell is one number of a table: an attack run against one
target.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from study.attacks.recipe import Attack, Goal
from study.errors import StudyError
from study.images.location import Stored
from study.images.precomputed import precomputed_files
from study.images.selection import Selected, Shard
from study.planning import identity
from study.planning.relation import Relation, relation
from study.reproducibility.hashing import digest
from study.spec.schema import SourceSet, Spec

Finished = Mapping[str, Collection[str]]
"""The targets that already have rows, by the id of the unit (one attack run on one shard)."""


@dataclass(frozen=True)
class Craft:
    """An attack run: everything that determines an adversarial image, except the clean image."""

    id: str
    sources: SourceSet
    attack: str
    recipe: Attack
    goal: Goal
    seed: int
    targets: tuple[str, ...]
    experiments: tuple[str, ...]
    reference: str | None
    """Id of the attack run whose RMSD the budget is matched to; None for other budgets."""
    relations: Mapping[str, Relation]
    """The relation (white-box, grey-box or black-box) of each target to the sources, by the name of the target."""
    precomputed: Mapping[str, Stored] | None = None
    """The files of precomputed images, by the id of the clean image; None for other attacks."""
    reads_true_labels: bool = False
    """Whether this attack, or the attack of its reference, reads true labels even if the goal is targeted."""

    @functools.cached_property
    def points(self) -> list[tuple[int, float | None]]:
        """The points (number of steps, budget) at which targets predict the images.

        The last point is the finished attack.
        """
        return self.recipe.scored_points

    @property
    def key(self) -> tuple[object, ...]:
        """The key of the attack run's random numbers.

        It does not contain the numerics, so numerics change no random number.
        """
        return (self.seed, self.sources, self.attack, self.goal)

    @property
    def keepable(self) -> bool:
        """Whether the adversarial images can be kept in the run folder.

        A search of the minimal RMSD keeps no images. Precomputed images need not be kept, because their files exist
        already.
        """
        return self.recipe.budget.minimal is None and self.recipe.precomputed is None

    @functools.cached_property
    def gradients(self) -> int:
        """Number of gradients that the attack run takes for one image."""
        return self.recipe.gradients(self.recipe.steps, len(self.sources))

    def unit_id(self, shard: Shard) -> str:
        """Return the id of the unit of this attack run on `shard`."""
        return identity.unit_id(self.id, shard, self.goal, reads_true_labels=self.reads_true_labels)


@dataclass(frozen=True)
class Unit:
    """One attack run on the images of one shard, with the targets that still lack rows.

    `targets` is empty if all rows exist. The unit then runs again only to keep its images.
    """

    id: str
    craft: Craft
    shard: Shard
    targets: tuple[str, ...]


class _Request(NamedTuple):
    """An attack run for which an experiment asks."""

    sources: SourceSet
    attack: str
    goal: Goal
    seed: int


class Plan:
    """All attack runs of a spec, in the order of its experiments.

    If the budget of an attack run is matched to the RMSD of another attack run, that other attack run comes earlier.
    """

    def __init__(self, spec: Spec, digests: Mapping[str, str], shards: Sequence[Shard]) -> None:
        """Plan the attack runs of `spec`.

        `digests` are the models' digests, by name; `shards` hold the selected images. Raises StudyError if a
        precomputed image is missing, ambiguous or in a lossy format.
        """
        self.spec = spec
        self.digests = dict(digests)
        self.shards = tuple(shards)
        self.crafts: dict[str, Craft] = {}
        for name, experiment in spec.experiments.items():
            for sources in spec.source_sets(experiment):
                for goal in dict.fromkeys(experiment.goal):
                    for attack in dict.fromkeys(experiment.attacks):
                        for seed in spec.seeds_of(experiment):
                            self._add(_Request(sources, attack, goal, seed), spec.targets(experiment, sources), name)

    def _add(self, request: _Request, targets: tuple[str, ...], experiment: str) -> Craft:
        sources, attack, goal, seed = request
        recipe = self.spec.attacks[attack]
        reference = None
        if recipe.budget.to is not None:
            reference = self._add(request._replace(attack=recipe.budget.to), targets, experiment)
        precomputed = self._precomputed(request, recipe)
        name = identity.attack_run_id(
            self.spec,
            self.digests,
            sources=sources,
            attack=attack,
            goal=goal,
            seed=seed,
            reference=reference.id if reference else None,
            matched_images=self._images if reference is not None and recipe.budget.by == "mean" else None,
            pool=self._pool(recipe),
            precomputed=precomputed,
        )
        known = self.crafts.get(name)
        merged = dict.fromkeys((*(known.targets if known else ()), *targets))
        shown = tuple(model for model in self.spec.models if model in merged)
        craft = Craft(
            id=name,
            sources=sources,
            attack=attack,
            recipe=recipe,
            goal=goal,
            seed=seed,
            targets=shown,
            experiments=tuple(dict.fromkeys((*(known.experiments if known else ()), experiment))),
            reference=reference.id if reference else None,
            relations={target: relation(self.spec.models, sources, target) for target in shown},
            precomputed=precomputed,
            reads_true_labels=recipe.reads_true_labels or (reference is not None and reference.reads_true_labels),
        )
        self.crafts[name] = craft
        return craft

    def _precomputed(self, request: _Request, recipe: Attack) -> dict[str, Stored] | None:
        """Return the files of precomputed images, by image id; None for other attacks.

        Raises StudyError if a file is missing, ambiguous or in a lossy format.
        """
        if recipe.precomputed is None:
            return None
        folder = recipe.precomputed_folder("+".join(request.sources), request.goal, str(request.seed))
        try:
            return precomputed_files(Path(folder), [one.image for one in self._images])
        except StudyError as error:
            raise error.located(f"attack '{request.attack}'") from None

    @functools.cached_property
    def _images(self) -> tuple[Selected, ...]:
        return tuple(one for shard in self.shards for one in shard.images)

    def pool(self, craft: Craft) -> tuple[Selected, ...]:
        """Return the selected images that an attack run mixes into other images.

        The study's seed determines these images.
        """
        return self._pool(craft.recipe)

    def _pool(self, recipe: Attack) -> tuple[Selected, ...]:
        return self._shuffled[: recipe.others]

    @functools.cached_property
    def _shuffled(self) -> tuple[Selected, ...]:
        """All selected images, in an order that the study's seed determines.

        The first images form the pool of an attack.
        """
        return tuple(sorted(self._images, key=lambda one: digest(self.spec.seed, "pool", one.image)))

    def units(self, done: Finished | None = None, *, kept: Container[str] | None = None) -> Iterator[Unit]:
        """Yield every unit (one attack run on one shard) that has targets without rows.

        `done` are the targets that have rows. `kept` are the ids of units whose images are kept. If `kept` is given and
        the spec keeps images, this also yields the units that have all rows but are not in `kept`.
        """
        for craft in self.crafts.values():
            yield from self.units_of(craft, done, kept=kept)

    def units_of(
        self,
        craft: Craft,
        done: Finished | None = None,
        shards: Sequence[Shard] | None = None,
        *,
        kept: Container[str] | None = None,
    ) -> Iterator[Unit]:
        """Yield the unfinished units of one attack run, as `units` does.

        `shards` limits the units; None means all shards.
        """
        keeps = self.spec.run.keep_images and craft.keepable
        for shard in self.shards if shards is None else shards:
            name = craft.unit_id(shard)
            finished = (done or {}).get(name, ())
            left = tuple(target for target in craft.targets if target not in finished)
            if left or (keeps and kept is not None and name not in kept):
                yield Unit(name, craft, shard, left)

    @property
    def cells(self) -> int:
        """Number of cells: pairs of an attack run and a target."""
        return sum(len(craft.targets) for craft in self.crafts.values())

    @property
    def pairs(self) -> int:
        """Number of pairs of a unit and a target. A complete run has rows for all these pairs."""
        return self.cells * len(self.shards)


def objective_labels(goal: Goal, images: Sequence[Selected]) -> list[int]:
    """Return the labels of the objective for `images`: target labels if the goal is targeted, else true labels."""
    return [one.target_label if goal == "targeted" else one.label for one in images]
