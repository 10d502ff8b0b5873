"""Chooses the number of images in a unit (one attack on one shard of the images). Pure.

The images must be enough to fill a device, and the units enough to keep all workers busy.
"""

from __future__ import annotations

from study.reproducibility import numerics
from study.spec.schema import Spec

_ON_CORES = 16
"""Images of a unit on processors: one pass."""

_ON_GPUS = 512
"""Images of a unit on GPUs. The driver takes milliseconds for a unit, so short units would leave a fast GPU idle."""

_UNITS = 8
"""Fewest units for each worker. With fewer units, some workers would wait long until other workers finish the last."""

_CALLS = 2
"""The results of at least this many calls fit into `run.waiting_mib`."""


def size(spec: Spec, images: int, *, gpus: bool, workers: int) -> int:
    """The number of images in a unit, for a study of `images` images on `workers` workers.

    `gpus`: whether the workers run on GPUs. If the spec gives `run.shard`, the result is `run.shard`. Otherwise, it is
    16 on processors. On GPUs it is a multiple of the pass size, if possible so small that every worker gets several
    units and that the results of calls fit into `run.waiting_mib`.
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

    An attack returns one image for each of its scored points: each number of steps and each budget at which targets
    see an image. In a search for the minimal RMSD, it returns a ray of floats instead.
    """
    floats = any(attack.budget.minimal is not None for attack in spec.attacks.values())
    most = max([8 * floats, *(len(attack.scored_points) for attack in spec.attacks.values())])
    return spec.images.bytes * max(1, most)


def _whole_batches(spec: Spec, images: int) -> int:
    batch = numerics.pass_size(spec.numerics.batch, "cuda")
    return max(1, images // batch) * batch


def _attack_runs(spec: Spec) -> int:
    """Number of attack runs. An attack run that two experiments share counts twice."""
    return sum(
        len(experiment.attacks)
        * len(spec.source_sets(experiment))
        * len(experiment.goal)
        * len(spec.seeds_of(experiment))
        for experiment in spec.experiments.values()
    )
