"""Computes the memory that the calls of a study need, from the memory of its models and the size of the passes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from study.attacks.component import HeldMemory
from study.attacks.recipe import Attack
from study.devices.copies import is_host
from study.geometry.plan import models_of
from study.models.reference import Model
from study.reproducibility import numerics
from study.spec.schema import Spec
from study.terminal.screen import counted

if TYPE_CHECKING:
    from study.attacks.loop import Engine
    from study.models.memory import Memory

_TENSORS = 8
"""Number of float images that a pass holds for each image, in addition to the activations of the networks. A view is
the transformed image that networks get. The float images are: the image, its view, the input and the output of the
transformation, the gradients of this input and output, and the state that an attack keeps from the last step. One more
is a margin."""


_CAST = 0.5
"""Size of a network's copy in bfloat16, relative to its float32 parameters. Both are in memory at the same time."""


class CallMemory(NamedTuple):
    """The memory of one kind of call.

    Attributes:
        peak: Bytes that the call needs, including its models.
        parameters: Bytes of the parameters of its models.
        what: Description of the call, for messages.
        images: Number of images in a pass.
    """

    peak: float
    parameters: float
    what: str
    images: int


@dataclass(frozen=True)
class Needs:
    """The memory that a study needs.

    Attributes:
        held: Bytes of each model while a worker holds it (parameters and buffers), by name of the model.
        calls: The memory of each kind of call.
    """

    held: Mapping[str, float]
    calls: tuple[CallMemory, ...]

    @property
    def peak(self) -> float:
        """Bytes of the largest call, including its models."""
        return max((call.peak for call in self.calls), default=0.0)

    @property
    def working(self) -> float:
        """The largest number of bytes that a call needs in addition to its models."""
        return max((call.peak - call.parameters for call in self.calls), default=0.0)

    @property
    def largest(self) -> str:
        """The description of the largest call, for messages."""
        if not self.calls:
            return "nothing"
        most = max(self.calls)
        return (
            f"{most.what}, {counted(most.images, 'image')} at a time: {_mib(most.parameters)} of parameters, "
            f"{_mib(most.peak - most.parameters)} for a pass"
        )


def estimated_batch(spec: Spec) -> int:
    """Return the number of images per pass for which the memory of the models is estimated."""
    return numerics.pass_size(spec.numerics.batch, "cpu")


def needs(spec: Spec, estimates: Mapping[str, Memory], device: str) -> Needs:
    """Return the memory that a study needs on `device`.

    `estimates`: the memory of each model for passes of `estimated_batch` images, by name of the model.

    The memory of a pass grows with its number of images. All members of an ensemble hold the memory of their gradients
    at the same time. But if an attack computes the gradient of each member separately, only the largest member counts.
    """
    estimates = {
        name: _with_copy(spec, name, _with_set(spec.models[name], one, device)) for name, one in estimates.items()
    }
    estimated, side = estimated_batch(spec), spec.images.size
    image, table = _TENSORS * spec.images.channels * side**2 * 4, 0 if is_host(device) else side**3 * 4
    size = numerics.pass_size(spec.numerics.batch, device)
    calls = []
    for name, one in estimates.items():
        if spec.models[name].source_only:
            continue
        per_image = (one.forward - one.parameters) / estimated + image
        calls.append(CallMemory(one.parameters + size * per_image, one.parameters, f"predictions of {name}", size))
    for work in gradients(spec, device):
        members = [estimates[name] for name in work.models]
        parameters = sum(one.parameters for one in members)
        passes = [(one.gradient - one.parameters) / estimated for one in members]
        per_image = (max(passes) if work.apart else sum(passes)) + image
        kept = work.held.weights * parameters + work.held.features * sum(passes) + work.held.tables * table
        what = f"gradients of {' + '.join(work.models)}"
        calls.append(CallMemory(parameters + work.images * per_image + kept, parameters, what, work.images))
    return Needs({name: float(one.parameters) for name, one in estimates.items()}, tuple(calls))


def _with_set(model: Model, one: Memory, device: str) -> Memory:
    """Return the memory of a model and, if the model has a set of weights, of this set.

    The set counts with all its files, and with the mean and the standard deviation of its weights. The set stays on the
    host, so it counts only if `device` is a CPU. `one`: the memory without the set.
    """
    if not model.has_set or device != "cpu":
        return one
    from study.models.weights import weight_set

    return _with(one, one.parameters * (len(weight_set.files(model.weights_value)) + 2))


def _with_copy(spec: Spec, name: str, one: Memory) -> Memory:
    """Return the memory of a model, including its copy in bfloat16 if its gradients or predictions have this precision.

    `one`: the memory without the copy.
    """
    model, used = spec.models[name], spec.numerics
    as_source = used.precision == "bfloat16" and not model.target_only and not model.has_set
    as_target = used.target_precision == "bfloat16" and not model.source_only
    return _with(one, math.ceil(_CAST * one.parameters)) if as_source or as_target else one


def _with(one: Memory, held: int) -> Memory:
    """Return the memory `one` of a model, increased by `held` bytes that the model always holds."""
    return replace(one, parameters=one.parameters + held, forward=one.forward + held, gradient=one.gradient + held)


@dataclass(frozen=True)
class GradientWork:
    """A kind of gradient computation in a study.

    Attributes:
        models: The source models.
        apart: Whether the gradients of the models are computed one after another, and not together.
        images: Number of images in the largest pass.
        held: Memory that the attack keeps between passes.
    """

    models: tuple[str, ...]
    apart: bool
    images: int
    held: HeldMemory


def gradients(spec: Spec, device: str) -> list[GradientWork]:
    """Return all kinds of gradient computations of a study, each with the largest pass of its attacks and probes.

    Computations are of the same kind if they agree in three things: the source models, the memory kept between passes,
    and whether the gradients of the models are computed together.
    """
    from study.attacks.loop import Engine

    used = spec.numerics
    engine = Engine(used.batch, used.max_pass_images, device, used.layout)
    found: dict[tuple[tuple[str, ...], bool, HeldMemory], int] = {}
    for models, apart, images, held in (*_of_experiments(spec, engine), *_of_probes(spec, engine)):
        if models:
            found[models, apart, held] = max(found.get((models, apart, held), 0), images)
    return [GradientWork(models, apart, images, held) for (models, apart, held), images in found.items()]


class _Asked(NamedTuple):
    """The gradient computation that one attack or probe asks for. The fields are those of GradientWork."""

    models: tuple[str, ...]
    apart: bool
    images: int
    held: HeldMemory = HeldMemory()


def _largest_pass(attack: Attack, engine: Engine) -> int:
    """Return the number of images in the largest pass of an attack, including its first stage."""
    if attack.external is not None:
        # An attack of another library gets a whole batch in one pass, on every device.
        return engine.batch
    largest = engine.largest(attack.copies)
    if attack.assembly.together:
        # If the loss is over all copies of an image, one pass must hold all copies.
        largest = max(largest, attack.copies)
    return largest if attack.first is None else max(largest, _largest_pass(attack.first, engine))


def _of_experiments(spec: Spec, engine: Engine) -> Iterator[_Asked]:
    """Yield the gradient computation of every attack in the experiments of a study."""
    for experiment in spec.experiments.values():
        for sources in spec.source_sets(experiment):
            for name in experiment.attacks:
                attack = spec.attacks[name]
                yield _Asked(
                    tuple(sources), attack.separate, _largest_pass(attack, engine), attack.assembly.held_memory
                )


def _of_probes(spec: Spec, engine: Engine) -> Iterator[_Asked]:
    """Yield the gradient computations of the probes of a study."""
    for probe in spec.geometry.values():
        models = models_of(spec, probe)
        if probe.probe == "gradient-cosine":
            # The probe smooths with several numbers of copies. At most their greatest common divisor is computed in one
            # pass.
            images = engine.largest(math.gcd(*probe.smoothing.copies) if probe.smoothing else 1)
            yield _Asked(tuple(models), True, images)
            continue
        for direction in probe.directions:
            copies = direction.smoothing.copies if direction.smoothing else 1
            attack = spec.attacks[direction.attack] if direction.attack else None
            for model in models:
                asked = _Asked(tuple(direction.models(model)), False, engine.largest(copies))
                if attack is not None:
                    asked = asked._replace(
                        apart=attack.separate,
                        images=_largest_pass(attack, engine),
                        held=attack.assembly.held_memory,
                    )
                yield asked


def _mib(size: float) -> str:
    return f"{size / 2**20:,.0f} MiB"
