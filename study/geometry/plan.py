"""Probes -> units, each with an id that is made from its content: same id, same rows.

A unit is one probe on the images of one shard. Of planes and lines it is that for one of the models that are looked at,
because a plane has thousands of points; cosines need all models at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from study.attacks.recipe import Attack
from study.errors import StudyError, names
from study.geometry.spec import Probe
from study.images.selection import Selected, Shard
from study.reproducibility.hashing import digest
from study.spec.schema import Spec

_ID_LENGTH = 12


@dataclass(frozen=True)
class Question:
    """All of a unit but its pixels and the models themselves.

    Attributes:
        models: The models that are looked at.
        attacks: Those that directions name.
        seed: What random directions and smoothing are drawn from.
        attack_seed: What attacks draw from.
        labels: The true ones.
        targets: The labels that targeted goals reach for.
    """

    name: str
    probe: Probe
    models: tuple[str, ...]
    attacks: Mapping[str, Attack]
    seed: int
    attack_seed: int
    images: tuple[str, ...]
    labels: tuple[int, ...]
    targets: tuple[int, ...]


@dataclass(frozen=True)
class ProbeUnit:
    """One probe on the images of `shard` that it asks for; `holds` are the models that a worker needs for it."""

    id: str
    name: str
    probe: Probe
    models: tuple[str, ...]
    holds: tuple[str, ...]
    shard: Shard

    @property
    def cost(self) -> float:
        """Predictions, or for cosines gradients, that it takes."""
        curve = self.probe.smoothing
        copies = 1 + (max(curve.copies) * len(curve.sigma) if curve else 0)
        return float(len(self.shard.images) * len(self.models) * (self.probe.count or copies))


class GeometryPlan:
    """All units of the probes of a spec."""

    def __init__(self, spec: Spec, digests: Mapping[str, str], shards: Sequence[Shard]) -> None:
        """`digests` are those of the models, by name; `shards` cut the selected images.

        Raises StudyError where a probe asks for images that are not selected.
        """
        self.spec = spec
        self.digests = dict(digests)
        self.shards = tuple(shards)
        self._chosen = {name: self._images_of(name, probe) for name, probe in spec.geometry.items()}

    def units(self, done: Mapping[str, Collection[str]] | None = None) -> Iterator[ProbeUnit]:
        """Every unit whose id is not `done`, which are ids by the name of their probe."""
        for name in self.spec.geometry:
            for models in self.sets(name):
                yield from self.units_of(name, models, done)

    def sets(self, name: str) -> list[tuple[str, ...]]:
        """The models that are looked at in one unit of a probe."""
        probe = self.spec.geometry[name]
        looked_at = models_of(self.spec, probe)
        return [looked_at] if probe.probe == "gradient-cosine" else [(one,) for one in looked_at]

    def units_of(
        self, name: str, models: tuple[str, ...], done: Mapping[str, Collection[str]] | None = None
    ) -> Iterator[ProbeUnit]:
        """The units of one probe and one of its sets of models that are not `done`; all need the same models."""
        finished = (done or {}).get(name, ())
        for shard in self.shards:
            images = tuple(one for one in shard.images if one.image in self._chosen[name])
            if images:
                unit = self._unit(name, models, Shard(shard.index, images))
                if unit.id not in finished:
                    yield unit

    def _unit(self, name: str, models: tuple[str, ...], shard: Shard) -> ProbeUnit:
        probe = self.spec.geometry[name]
        sources = [source for one in probe.directions for source in one.models(models[0])]
        holds = tuple(dict.fromkeys((*models, *sources)))
        content = digest(self._identity(name, models, sources), [self._content(one) for one in shard.images])
        called = models[0] if len(models) == 1 else f"{len(models)}-models"
        unit_id = f"{name}.{called}.{shard.index:04d}-{content[:_ID_LENGTH]}"
        return ProbeUnit(unit_id, name, probe, models, holds, shard)

    def _identity(self, name: str, models: Sequence[str], sources: Sequence[str]) -> dict[str, Any]:
        spec, probe = self.spec, self.spec.geometry[name]
        return {
            "probe": (name, probe.model_dump(mode="json", exclude={"models", "images"})),
            "models": [(one, self.digests[one]) for one in models],
            "sources": [(one, self.digests[one]) for one in sources],
            "attacks": [spec.attacks[one].model_dump(mode="json") for one in probe.attacks],
            "seeds": (spec.seed, attack_seed(spec) if probe.attacks else None),
            "images": (spec.images.size, spec.images.preparation),
            "numerics": spec.numerics.model_dump(mode="json"),
        }

    def _content(self, image: Selected) -> tuple[object, ...]:
        return (image.image, image.digest, image.label, image.target_label)

    def question(self, unit: ProbeUnit) -> Question:
        """What a worker is asked."""
        images = unit.shard.images
        return Question(
            name=unit.name,
            probe=unit.probe,
            models=unit.models,
            attacks={name: self.spec.attacks[name] for name in unit.probe.attacks},
            seed=self.spec.seed,
            attack_seed=attack_seed(self.spec),
            images=tuple(one.image for one in images),
            labels=tuple(one.label for one in images),
            targets=tuple(one.target_label for one in images),
        )

    def _images_of(self, name: str, probe: Probe) -> frozenset[str]:
        selected = [one.image for shard in self.shards for one in shard.images]
        if probe.images == "all":
            return frozenset(selected)
        if isinstance(probe.images, int):
            if probe.images > len(selected):
                raise StudyError(
                    f"{probe.images} images are wanted, and {len(selected)} are selected",
                    where=f"geometry.{name}.images",
                    accepted=f"1 to {len(selected)}, all, or a list of ids",
                )
            return frozenset(sorted(selected, key=lambda one: digest(self.spec.seed, "geometry", one))[: probe.images])
        missing = [one for one in probe.images if one not in selected]
        if missing:
            raise StudyError(
                f"the image '{missing[0]}' is not among the selected ones",
                where=f"geometry.{name}.images",
                accepted=names(selected, missing[0]),
                todo="name another, or relax images.keep",
            )
        return frozenset(probe.images)


def models_of(spec: Spec, probe: Probe) -> tuple[str, ...]:
    """The models that a probe looks at, in the order of the spec."""
    return tuple(
        name
        for name, model in spec.models.items()
        if (probe.models is None and not model.target_only) or name in (probe.models or ())
    )


def attack_seed(spec: Spec) -> int:
    """The study's first seed: what attacks draw from whose way is a direction."""
    return (spec.seeds or (spec.seed,))[0]
