"""Turns a spec into attack runs and their units.

An attack run (`Craft`) is one attack with one goal and seed on one set of source models. A unit is one attack run on
the images of one shard, with the targets that predict them. A cell is one number of a table: an attack run against
one target.
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
"""The targets that have rows, by unit id."""


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
    """Id of the attack run whose RMSD the budget is matched to."""
    relations: Mapping[str, Relation]
    """Each target's relation to the sources."""
    precomputed: Mapping[str, Stored] | None = None
    """Files of precomputed images, by the id of the clean image."""
    reads_true_labels: bool = False
    """Whether its attack, or the attack of its reference, uses true labels even if the goal is targeted."""

    @functools.cached_property
    def points(self) -> list[tuple[int, float | None]]:
        """The points (steps, budget) at which targets predict its images. The last point is the finished attack."""
        return self.recipe.scored_points

    @property
    def key(self) -> tuple[object, ...]:
        """The key of its random numbers. Numerics are not in the key, so that they change no draw."""
        return (self.seed, self.sources, self.attack, self.goal)

    @property
    def keepable(self) -> bool:
        """Whether its images can be kept. Searches for the minimal RMSD keep none; precomputed images exist already."""
        return self.recipe.budget.minimal is None and self.recipe.precomputed is None

    @functools.cached_property
    def gradients(self) -> int:
        """Number of gradients for one image."""
        return self.recipe.gradients(self.recipe.steps, len(self.sources))

    def unit_id(self, shard: Shard) -> str:
        """Return the id of its unit on `shard`."""
        return identity.unit_id(self.id, shard, self.goal, reads_true_labels=self.reads_true_labels)


@dataclass(frozen=True)
class Unit:
    """One attack run on one shard, with the targets that lack rows.

    `targets` is empty if all rows exist, and the unit runs again only to keep its images.
    """

    id: str
    craft: Craft
    shard: Shard
    targets: tuple[str, ...]


class _Request(NamedTuple):
    """One attack run that an experiment asks for."""

    sources: SourceSet
    attack: str
    goal: Goal
    seed: int


class Plan:
    """All attack runs of a spec, in the order of its experiments. A reference comes before the runs that need it."""

    def __init__(self, spec: Spec, digests: Mapping[str, str], shards: Sequence[Shard]) -> None:
        """`digests` are the models' digests, by name; `shards` hold the selected images.

        Raises StudyError if a precomputed image is missing.
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
        """The files of precomputed images. Raises StudyError if one is missing."""
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
        """Return the selected images that an attack run mixes into others. The study's seed chooses these images."""
        return self._pool(craft.recipe)

    def _pool(self, recipe: Attack) -> tuple[Selected, ...]:
        return self._shuffled[: recipe.others]

    @functools.cached_property
    def _shuffled(self) -> tuple[Selected, ...]:
        """All selected images, shuffled by the seed. A pool is the beginning of this sequence."""
        return tuple(sorted(self._images, key=lambda one: digest(self.spec.seed, "pool", one.image)))

    def units(self, done: Finished | None = None, *, kept: Container[str] | None = None) -> Iterator[Unit]:
        """Yield every unit with targets that have no rows yet.

        `kept`: ids of units with kept images. If `kept` is given and the spec keeps images, also yield the units that
        have all rows but are not in `kept`.
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
        """Yield the unfinished units of one attack run, as `units` does, on `shards` or on all shards."""
        keeps = self.spec.run.keep_images and craft.keepable
        for shard in self.shards if shards is None else shards:
            name = craft.unit_id(shard)
            finished = (done or {}).get(name, ())
            left = tuple(target for target in craft.targets if target not in finished)
            if left or (keeps and kept is not None and name not in kept):
                yield Unit(name, craft, shard, left)

    @property
    def cells(self) -> int:
        """Number of (attack run, target) pairs."""
        return sum(len(craft.targets) for craft in self.crafts.values())

    @property
    def pairs(self) -> int:
        """Number of (unit, target) pairs. A complete run has rows for all of them."""
        return self.cells * len(self.shards)


def objective_labels(goal: Goal, images: Sequence[Selected]) -> list[int]:
    """Return the labels of the objective: target labels if the goal is targeted, else true labels."""
    return [one.target_label if goal == "targeted" else one.label for one in images]
