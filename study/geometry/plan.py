"""Divides the geometry probes of a spec into units of work.

A unit is one probe on the images of one shard. A gradient-cosine probe compares models, so a unit has all its models.
Any other probe has a unit for each shard and each model, because one plane alone has thousands of points.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from study.attacks.recipe import Attack
from study.errors import StudyError, names
from study.geometry.spec import Probe
from study.images.selection import Shard
from study.planning import identity
from study.reproducibility.hashing import digest
from study.spec.schema import Spec


@dataclass(frozen=True)
class ProbeTask:
    """The description of a unit (one probe on the images of one shard) for a worker. It has no pixels and no models.

    Attributes:
        name: The name of the probe in the spec.
        models: The names of the probed models.
        attacks: The recipes of the attacks whose perturbations are directions of the probe, by name.
        seed: The seed of random directions and of smoothing noise.
        attack_seed: The seed of the attacks.
        images: The ids of the images.
        labels: The true labels of the images.
        targets: The target labels of the images.
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
    """A unit: one probe of `models` on the images of `shard`.

    `holds` names the models that a worker must have loaded: the probed models and the sources of directions.
    """

    id: str
    name: str
    probe: Probe
    models: tuple[str, ...]
    holds: tuple[str, ...]
    shard: Shard

    @property
    def cost(self) -> float:
        """The cost of the unit: the number of predictions or, for a gradient-cosine probe, the number of gradients."""
        curve = self.probe.smoothing
        copies = 1 + (max(curve.copies) * len(curve.sigma) if curve else 0)
        return float(len(self.shard.images) * len(self.models) * (self.probe.count or copies))


class GeometryPlan:
    """The plan of a spec's geometry probes: all their units (one probe on the images of one shard)."""

    def __init__(self, spec: Spec, digests: Mapping[str, str], shards: Sequence[Shard]) -> None:
        """`digests`: the digest of each model, by name. `shards`: all selected images.

        Raises StudyError if a probe names an image that is not selected, or needs more images than are selected.
        """
        self.spec = spec
        self.digests = dict(digests)
        self.shards = tuple(shards)
        self._chosen = {name: self._images_of(name, probe) for name, probe in spec.geometry.items()}

    def units(self, done: Mapping[str, Collection[str]] | None = None) -> Iterator[ProbeUnit]:
        """Yield every unit that is not finished. `done`: the ids of finished units, by the name of their probe."""
        for name in self.spec.geometry:
            for models in self.sets(name):
                yield from self.units_of(name, models, done)

    def sets(self, name: str) -> list[tuple[str, ...]]:
        """Return the sets of models that the units of probe `name` have.

        A gradient-cosine probe has one set with all its models. Any other probe has one set for each model alone.
        """
        probe = self.spec.geometry[name]
        probed = models_of(self.spec, probe)
        return [probed] if probe.probe == "gradient-cosine" else [(one,) for one in probed]

    def units_of(
        self, name: str, models: tuple[str, ...], done: Mapping[str, Collection[str]] | None = None
    ) -> Iterator[ProbeUnit]:
        """Yield the unfinished units of probe `name` with the set `models`, which is an item of `sets(name)`.

        All yielded units need the same models. `done`: the ids of finished units, by the name of their probe.
        """
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
        unit_id = identity.probe_unit_id(
            self.spec, self.digests, name=name, models=models, sources=sources, shard=shard
        )
        return ProbeUnit(unit_id, name, probe, models, tuple(dict.fromkeys((*models, *sources))), shard)

    def task(self, unit: ProbeUnit) -> ProbeTask:
        """Return the description of a unit for a worker."""
        images = unit.shard.images
        return ProbeTask(
            name=unit.name,
            probe=unit.probe,
            models=unit.models,
            attacks={name: self.spec.attacks[name] for name in unit.probe.attacks},
            seed=self.spec.seed,
            attack_seed=self.spec.first_attack_seed,
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
                    f"the probe needs {probe.images} images, but the study selects only {len(selected)}",
                    where=f"geometry.{name}.images",
                    accepted=f"1 to {len(selected)}, all, or a list of ids",
                )
            return frozenset(sorted(selected, key=lambda one: digest(self.spec.seed, "geometry", one))[: probe.images])
        missing = [one for one in probe.images if one not in selected]
        if missing:
            raise StudyError(
                f"the image '{missing[0]}' is not selected",
                where=f"geometry.{name}.images",
                accepted=names(selected, missing[0]),
                todo="name another image, or relax images.keep or images.count",
            )
        return frozenset(probe.images)


def models_of(spec: Spec, probe: Probe) -> tuple[str, ...]:
    """Return the models of a probe, in the order of the spec.

    If the probe names no models, these are all models that have gradients and also predict as targets.
    """
    return tuple(
        name
        for name, model in spec.models.items()
        if (probe.models is None and not (model.target_only or model.source_only)) or name in (probe.models or ())
    )
