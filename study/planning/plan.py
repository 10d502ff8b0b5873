"""Spec -> crafts -> units, each with an id that is made from its content.

A craft's id is a hash of everything that decides its pixels but the image: names and digests of its source models,
the attack and what its budget is matched to, the goal, the seed, how images are prepared, and the numerics. A unit's
id adds the images, by the digest of their pixels and their labels. Same id = same pixels, so what is
finished is never run again.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from study.attacks.recipe import Attack, Goal
from study.errors import StudyError
from study.images.location import Stored, file_digest
from study.images.precomputed import precomputed_files
from study.images.selection import Selected, Shard
from study.planning.relation import Relation, relation
from study.reproducibility.hashing import digest
from study.spec.schema import SourceSet, Spec

_ID_LENGTH = 12

Finished = Mapping[str, Collection[str]]
"""The targets that units are done with, by unit id."""


@dataclass(frozen=True)
class Craft:
    """One (sources, attack, goal, seed): everything that decides an adversarial image, but the image."""

    id: str
    sources: SourceSet
    attack: str
    recipe: Attack
    goal: Goal
    seed: int
    targets: tuple[str, ...]
    experiments: tuple[str, ...]
    reference: str | None
    """Id of the craft whose RMSD the budget is matched to."""
    relations: Mapping[str, Relation]
    """How each target stands to the sources."""
    made: Mapping[str, Stored] | None = None
    """Where the images lie, by the id of the clean one, if another tool has made them."""
    reads_true_labels: bool = False
    """Whether images' true labels decide its pixels, whatever the goal: by its attack, or by what it is matched to."""

    @property
    def key(self) -> tuple[object, ...]:
        """What keys the craft's randomness: its content without the numerics, which must change no draw."""
        return (self.seed, self.sources, self.attack, self.goal)

    @property
    def keepable(self) -> bool:
        """Whether it has images to keep: a search of the minimal RMSD has directions, others' images lie elsewhere."""
        return self.recipe.budget.minimal is None and self.recipe.made is None

    @property
    def gradients(self) -> int:
        """Image gradients for one image."""
        return self.recipe.gradients(self.recipe.steps, len(self.sources))


@dataclass(frozen=True)
class Unit:
    """One craft on one shard, and the targets that it is still to be shown to: none where only images are wanted."""

    id: str
    craft: Craft
    shard: Shard
    targets: tuple[str, ...]


class _Wish(NamedTuple):
    """What an experiment asks for."""

    sources: SourceSet
    attack: str
    goal: Goal
    seed: int


class Plan:
    """All crafts of a spec, in the order in which the experiments name them, references before what needs them."""

    def __init__(self, spec: Spec, digests: Mapping[str, str], shards: Sequence[Shard]) -> None:
        """`digests` are those of the models, by name; `shards` cut the selected images."""
        self.spec = spec
        self.digests = dict(digests)
        self.shards = tuple(shards)
        self.crafts: dict[str, Craft] = {}
        for name, experiment in spec.experiments.items():
            for sources in spec.source_sets(experiment):
                for goal in dict.fromkeys(experiment.goal):
                    for attack in dict.fromkeys(experiment.attacks):
                        for seed in spec.seeds_of(experiment):
                            self._add(_Wish(sources, attack, goal, seed), spec.targets(experiment), name)

    def _add(self, wish: _Wish, targets: tuple[str, ...], experiment: str) -> Craft:
        sources, attack, goal, seed = wish
        recipe = self.spec.attacks[attack]
        reference = None
        if recipe.budget.to is not None:
            reference = self._add(wish._replace(attack=recipe.budget.to), targets, experiment)
        theirs = self._made(wish, recipe)
        identity = self._identity(wish, recipe, reference)
        if theirs is not None:
            identity["made"] = [(image, file_digest(stored)) for image, stored in sorted(theirs.items())]
        name = f"{'+'.join(sources) or 'elsewhere'}.{attack}.{goal}.s{seed}-{digest(identity)[:_ID_LENGTH]}"
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
            made=theirs,
            reads_true_labels=recipe.reads_true_labels or (reference is not None and reference.reads_true_labels),
        )
        self.crafts[name] = craft
        return craft

    def _identity(self, wish: _Wish, recipe: Attack, reference: Craft | None) -> dict[str, Any]:
        images: list[tuple[str, str]] | None = None
        pool = [(one.image, one.digest, one.label) for one in self._pool(recipe)]
        if reference is not None and recipe.budget.by == "mean":
            # In the order of their ids, as if all had been selected at once.
            images = sorted((one.image, one.digest) for shard in self.shards for one in shard.images)
        return {
            "sources": [(name, self.digests[name]) for name in wish.sources],
            "attack": (wish.attack, recipe.model_dump(mode="json", exclude={"made"})),
            "reference": reference.id if reference else None,
            "goal": wish.goal,
            "seed": wish.seed,
            "images": (self.spec.images.size, self.spec.images.preparation, images, pool),
            "numerics": self.spec.numerics.model_dump(mode="json"),
        }

    def _made(self, wish: _Wish, recipe: Attack) -> dict[str, Stored] | None:
        """The files that another tool has made of the selected images. StudyError where one is not there."""
        if recipe.made is None:
            return None
        folder = recipe.folder_made(sources="+".join(wish.sources), goal=wish.goal, seed=str(wish.seed))
        try:
            return precomputed_files(Path(folder), [one.image for shard in self.shards for one in shard.images])
        except StudyError as error:
            raise error.located(f"attack '{wish.attack}'") from None

    def pool(self, craft: Craft) -> tuple[Selected, ...]:
        """The images that a craft's attack mixes into others: selected ones, which ones the seed decides."""
        return self._pool(craft.recipe)

    def _pool(self, recipe: Attack) -> tuple[Selected, ...]:
        if recipe.admix is None:
            return ()
        return self._shuffled[: recipe.admix.pool]

    @functools.cached_property
    def _shuffled(self) -> tuple[Selected, ...]:
        """All selected images in the seed's order, which pools are the beginning of."""
        everyone = (one for shard in self.shards for one in shard.images)
        return tuple(sorted(everyone, key=lambda one: digest(self.spec.seed, "pool", one.image)))

    def units(self, done: Finished | None = None, *, kept: Container[str] | None = None) -> Iterator[Unit]:
        """Every unit that has targets left, given the targets that each unit id is `done` with; none is held.

        Where the spec keeps images, also every other unit whose images are not `kept` (ids of units; None: no other).
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
        """The units of one craft that have something left, on `shards`, or on all."""
        keeps = self.spec.run.keep_images and craft.keepable
        for shard in self.shards if shards is None else shards:
            name = unit_id(craft, shard)
            finished = (done or {}).get(name, ())
            left = tuple(target for target in craft.targets if target not in finished)
            if left or (keeps and kept is not None and name not in kept):
                yield Unit(name, craft, shard, left)

    @property
    def cells(self) -> int:
        return sum(len(craft.targets) for craft in self.crafts.values())

    @property
    def pairs(self) -> int:
        """All (unit, target) pairs: what a complete run has rows for."""
        return self.cells * len(self.shards)


def unit_id(craft: Craft, shard: Shard) -> str:
    """The id of `craft` on `shard`."""
    content = shard.contents[craft.goal, craft.reads_true_labels]
    return f"{craft.id}.{shard.index:04d}-{content[:_ID_LENGTH]}"


def wanted_labels(goal: Goal, images: Sequence[Selected]) -> list[int]:
    """The labels that an attack's objective is about: to leave the true one, or to reach the target."""
    return [one.target_label if goal == "targeted" else one.label for one in images]
