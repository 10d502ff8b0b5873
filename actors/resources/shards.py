"""Chooses the number of images in a unit: enough to fill a device, and few enough to keep all workers busy. Pure."""

from __future__ import annotations

from study.reproducibility import numerics
from study.spec.schema import Spec

_ON_CORES = 16
"""Images of a unit on processors: one pass."""

_ON_GPUS = 512
"""Images of a unit on GPUs. The driver takes milliseconds for a unit, so short units would leave a fast GPU idle."""

_UNITS = 8
"""Fewest units for each worker: with fewer, some workers would wait long for the last units of others."""

_CALLS = 2
"""The results of at least this many calls fit into `run.waiting_mib`."""


def size(spec: Spec, images: int, *, gpus: bool, workers: int) -> int:
    """The number of images in a unit, for a study of `images` images on `workers` workers. `gpus`: on GPUs.

    It is `run.shard` if that is given. On GPUs it is a number of whole batches, small enough that every worker gets
    several units and that the results of calls fit into `run.waiting_mib`.
    """
    if spec.run.shard is not None or not gpus:
        return spec.run.shard or _ON_CORES
    shared = images * _attack_runs(spec) // (_UNITS * max(1, workers))
    return _whole_batches(spec, min(shared, largest(spec, gpus=True)))


def largest(spec: Spec, *, gpus: bool) -> int:
    """The most images that `size` may return."""
    if spec.run.shard is not None or not gpus:
        return spec.run.shard or _ON_CORES
    room = spec.run.waiting_mib * 2**20 // (_CALLS * result_bytes(spec))
    return _whole_batches(spec, min(max(_ON_GPUS, spec.numerics.batch), room))


def result_bytes(spec: Spec) -> int:
    """Most bytes that an attack returns for one image.

    An attack returns an image for each of its points, or the float ray of a search for the minimal RMSD.
    """
    floats = any(attack.budget.minimal is not None for attack in spec.attacks.values())
    most = max([8 * floats, *(len(attack.scored_points) for attack in spec.attacks.values())])
    return spec.images.bytes * max(1, most)


def _whole_batches(spec: Spec, images: int) -> int:
    batch = numerics.pass_size(spec.numerics.batch, "cuda")
    return max(1, images // batch) * batch


def _attack_runs(spec: Spec) -> int:
    """Number of attack runs. A run that two experiments share counts twice."""
    return sum(
        len(experiment.attacks)
        * len(spec.source_sets(experiment))
        * len(experiment.goal)
        * len(spec.seeds_of(experiment))
        for experiment in spec.experiments.values()
    )
