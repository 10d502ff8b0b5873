"""Chooses the number of images in a unit (one attack run on one shard of the images).

A unit needs enough images to use a device well. A study needs enough units to keep all workers busy.
"""

from __future__ import annotations

from study.reproducibility import numerics
from study.spec.schema import Spec

_ON_CORES = 16
"""Number of images in a unit on processors: one pass."""

_ON_GPUS = 512
"""Largest number of images in a unit on GPUs. If a batch has more images, the limit is the size of the batch. The
driver takes milliseconds for a unit, so much smaller units could leave a fast GPU idle."""

_UNITS = 8
"""Smallest number of units for each worker. With fewer units, some workers would be idle for long while other workers
finish the last units."""

_CALLS = 2
"""Number of calls whose results must fit into `run.waiting_mib` together."""


def size(spec: Spec, images: int, *, gpus: bool, workers: int) -> int:
    """Return the number of images in a unit, for a study of `images` images on `workers` workers.

    `gpus`: whether the workers run on GPUs. If the spec sets `run.shard`, the result is this number. Otherwise the
    result is 16 on processors. On GPUs, it is a multiple of the number of images in a pass. It is small enough that
    every worker gets several units, and that the results of calls fit into `run.waiting_mib`. But it is at least one
    pass.
    """
    if spec.run.shard is not None or not gpus:
        return spec.run.shard or _ON_CORES
    shared = images * _attack_runs(spec) // (_UNITS * max(1, workers))
    return _whole_batches(spec, min(shared, largest(spec, gpus=True)))


def largest(spec: Spec, *, gpus: bool) -> int:
    """Return the largest number of images that `size` may return."""
    if spec.run.shard is not None or not gpus:
        return spec.run.shard or _ON_CORES
    room = spec.run.waiting_mib * 2**20 // (_CALLS * result_bytes(spec))
    return _whole_batches(spec, min(max(_ON_GPUS, spec.numerics.batch), room))


def result_bytes(spec: Spec) -> int:
    """Return the largest number of bytes that an attack returns for one image.

    An attack returns one image for each of its scored points: each number of steps and each budget at which targets see
    an image. In a search for the minimal RMSD, it returns two float32 images instead: the clean image and a direction.
    """
    floats = any(attack.budget.minimal is not None for attack in spec.attacks.values())
    most = max([8 * floats, *(len(attack.scored_points) for attack in spec.attacks.values())])
    return spec.images.bytes * max(1, most)


def _whole_batches(spec: Spec, images: int) -> int:
    batch = numerics.pass_size(spec.numerics.batch, "cuda")
    return max(1, images // batch) * batch


def _attack_runs(spec: Spec) -> int:
    """Return the number of attack runs. An attack run that two experiments share counts twice."""
    return sum(
        len(experiment.attacks)
        * len(spec.source_sets(experiment))
        * len(experiment.goal)
        * len(spec.seeds_of(experiment))
        for experiment in spec.experiments.values()
    )
