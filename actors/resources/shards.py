"""The number of images in one unit of work: enough to fill a device, and few enough to keep all workers busy. Pure."""

from __future__ import annotations

from study.reproducibility import numerics
from study.spec.schema import Spec

_ON_CORES = 16
"""Images of a unit on processors: one pass."""

_ON_GPUS = 512
"""Images of a unit on GPUs. A unit costs the driver milliseconds, so that short units would leave a fast GPU idle."""

_UNITS = 8
"""Units for each worker at least, so that the last ones do not leave the others idle for long."""

_CALLS = 2
"""Results of calls that fit into `run.waiting_mib` at least."""


def size(spec: Spec, images: int, *, gpus: bool, workers: int) -> int:
    """Images of a unit in a study of `images` images, on `workers` workers on GPUs or on processors.

    `run.shard`, if it is given. On GPUs it has whole batches, as few as give every worker some units, and as many as
    their results leave room for.
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
    """Bytes that the largest attack returns for one image: all of its points, or the ray of a search, in float32."""
    floats = any(attack.budget.minimal is not None for attack in spec.attacks.values())
    most = max([8 * floats, *(len(attack.scored_points) for attack in spec.attacks.values())])
    return spec.images.bytes * max(1, most)


def _whole_batches(spec: Spec, images: int) -> int:
    batch = numerics.pass_size(spec.numerics.batch, "cuda")
    return max(1, images // batch) * batch


def _attack_runs(spec: Spec) -> int:
    """Number of attack runs; those that two experiments share count twice."""
    return sum(
        len(experiment.attacks)
        * len(spec.source_sets(experiment))
        * len(experiment.goal)
        * len(spec.seeds_of(experiment))
        for experiment in spec.experiments.values()
    )
