"""Run an external attack on source models: set seeds, count passes, and round and project the attack's images."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from study.attacks.budget import Pixels
from study.attacks.external import libraries
from study.attacks.external.call import ExternalCall
from study.attacks.external.failures import failure
from study.attacks.external.seeds import seed_of, seeded
from study.attacks.external.spec import External
from study.attacks.external.surrogate import Passes, surrogate
from study.attacks.loop import Engine, ImageBatch
from study.attacks.recipe import Goal
from study.errors import StudyError
from study.models.device_errors import OutOfMemory, attempt, fault, too_little
from study.reproducibility import numerics
from study.reproducibility.numerics import Precision

Value = TypeVar("Value")

_TOLERANCE = 0.01
"""Tolerance in pixel values. Smaller excesses over a budget are not reported: float32 rounding explains them."""

_MOST = 2.0
"""Largest absolute value that is accepted in the attack's images, which should be in 0..1.

Larger values mean that the images are in another range: no attack on images in 0..1 leaves 0..1 by that much.
"""


@dataclass(frozen=True)
class ExternalImages:
    """The adversarial images of an external attack, `uint8` (N, C, H, W), and what was measured during the attack.

    `gradients` and `forwards` are counts per image, over all sources and views. `gradients` counts the gradients that
    reached the input of a source model. `forwards` counts the images that passed through a source model. `over_budget`
    is the number of images that were outside the budget or outside 0..255, and were therefore projected. `most_over` is
    the largest distance of such an image from the budget or from 0..255, in pixel values. `notes` are messages to the
    user.
    """

    pixels: Pixels
    gradients: float
    forwards: float
    over_budget: int
    most_over: float
    notes: tuple[str, ...]

    @property
    def note(self) -> str | None:
        """All notes in one line. None if there are no notes."""
        return "; ".join(self.notes) or None


def check_external(
    external: External, goals: Sequence[Goal], sources: int, *, epsilon: float | None, allow_code: bool = False
) -> None:
    """Raise StudyError for errors that can be found before the attack runs.

    These errors are:

    - a missing library or file;
    - an unknown attack or argument, or a missing argument or budget;
    - several sources, or a targeted goal, if the attack does not support them;
    - a user's file without permission (`allow_code` is False).

    No model is needed. `epsilon` is the L-infinity budget in pixel values.
    """
    if external.library == "python" and not allow_code:
        raise StudyError(
            f"the attack {external.external} is your own code, which may not run without permission",
            accepted="--allow-code, for code that you trust: the code runs with all your rights",
            todo="read the code, then add --allow-code to the command; or remove the attack",
        )
    adapter = libraries.adapter(external.library)
    for goal in goals:
        adapter.check(
            external.attack,
            external.arguments,
            targeted=goal == "targeted",
            sources=sources,
            epsilon=None if epsilon is None else epsilon / 255,
        )


def run_external(
    external: External,
    models: Sequence[nn.Module],
    given: ImageBatch,
    goal: Goal,
    *,
    epsilon: float | None,
    key: Sequence[object],
    engine: Engine,
    networks: Sequence[str] = (),
    allow_code: bool = False,
) -> ExternalImages:
    """Attack the images in `given`, and return the adversarial images in the same order.

    One call of the attack gets a batch of up to `engine.batch` images. `models` take pixels in 0..255; the attack gets
    images in 0..1. `networks` are the names of the models' networks in their zoos, such as `resnet50`. Some attacks
    find layers by these names. `epsilon` is the L-infinity budget in pixel values. If the attack's arguments have no
    budget, an attack that takes an L-infinity budget gets `epsilon`. The attack's images are rounded to whole pixel
    values, and projected onto `epsilon` and 0..255. Before each call, the global generators of `random`, numpy and
    torch are seeded with `seed_of(key, ids of the batch)`. After the call, the generators have their earlier states
    again. The models are not changed.

    Raises StudyError in the cases of `check_external`. Also raises StudyError if the attack fails; the error then names
    the attack's file and line. Also raises StudyError if the attack does not return finite images of the same shape
    near 0..1, and if memory runs out.
    """
    check_external(external, [goal], len(models), epsilon=epsilon, allow_code=allow_code)
    called = tuple(networks) or tuple(_name_of(model) for model in models)
    passes, notes = Passes(), dict[str, None]()
    pixels: list[Pixels] = []
    over: list[float] = []
    for first in range(0, len(given.clean), engine.batch):
        batch = given.take(range(first, min(first + engine.batch, len(given.clean))))
        call = functools.partial(
            _call, external, models, batch, goal, epsilon=epsilon, key=key, device=torch.device(engine.device),
            networks=called, passes=passes, precision=engine.precision,
        )  # fmt: skip
        clean, found, said = _within_memory(call, passes, external, batch)
        whole, excess = _held_to(clean, found, epsilon)
        pixels.append(whole)
        over += excess
        notes |= dict.fromkeys(said)
    outside = [one for one in over if one > _TOLERANCE]
    count = len(given.clean)
    return ExternalImages(
        np.concatenate(pixels),
        gradients=passes.gradients / count,
        forwards=passes.forwards / count,
        over_budget=len(outside),
        most_over=max(outside, default=0.0),
        notes=(*(f"{external.external}: {note}" for note in notes), *_notes(external, engine, passes, outside, count)),
    )


def _call(
    external: External,
    models: Sequence[nn.Module],
    batch: ImageBatch,
    goal: Goal,
    *,
    epsilon: float | None,
    key: Sequence[object],
    device: torch.device,
    networks: Sequence[str],
    passes: Passes,
    precision: Precision,
) -> tuple[Tensor, Tensor, Sequence[str]]:
    """Call the attack once. Return the clean images in 0..255, the attack's images in 0..1, and the attack's notes.

    Both tensors are (N, C, H, W).
    """
    seed = seed_of(key, batch.images)
    clean = torch.from_numpy(batch.clean).to(device)
    call = ExternalCall(
        attack=external.attack,
        arguments=external.arguments,
        models=[surrogate(model, passes) for model in models],
        networks=networks,
        images=clean.to(torch.float32) / 255,
        labels=torch.from_numpy(batch.labels).to(device),
        true=torch.from_numpy(batch.true).to(device),
        targeted=goal == "targeted",
        epsilon=None if epsilon is None else epsilon / 255,
        device=device,
        generator=torch.Generator(device).manual_seed(seed),
        seed=seed,
    )
    return clean, _returned(external, call, batch.images, precision), call.notes


def _within_memory(call: Callable[[], Value], passes: Passes, external: External, batch: ImageBatch) -> Value:
    """Return the result of `call`. If memory runs out, unused memory is freed, and the call is repeated once.

    The repeated call has the same seed. The batch is not divided: the random numbers of the attack belong to the whole
    batch, so smaller batches would give other images. If memory runs out again, an error is raised.
    """
    before = dataclasses.replace(passes)
    found = attempt(call)
    if isinstance(found, OutOfMemory):
        passes.forwards, passes.gradients = before.forwards, before.gradients
        found = attempt(call)
    if isinstance(found, OutOfMemory):
        raise too_little(
            found,
            f"the device has too little memory for {len(batch.images)} images in one call of {external.external}",
            todo="lower the batch (in a spec numerics.batch, which changes ids), or use a device with more memory",
        )
    return found


def _returned(external: External, call: ExternalCall, images: Sequence[str], precision: Precision) -> Tensor:
    """Run the attack, check its images, and return them: finite float32 (N, C, H, W), on the device of the call.

    Raises StudyError if the attack fails, or if its images have a wrong type, shape or range. Errors of the device are
    raised unchanged.
    """
    adapter = libraries.adapter(external.library)
    try:
        with seeded(call.seed, call.device), torch.enable_grad(), numerics.foreign_code(precision, call.device.type):
            found = adapter.craft(call)
    except StudyError:
        raise
    except Exception as error:
        if fault(error) is not None:
            raise
        raise failure(external.external, error, adapter.home(external.attack)) from error
    expected = tuple(call.images.shape)
    if not isinstance(found, Tensor) or not found.is_floating_point() or tuple(found.shape) != expected:
        raise StudyError(
            f"{external.external} returned {_described(found)}",
            accepted=f"a float tensor {expected} of images in 0..1, like those that the attack was given",
            todo="correct the attack",
        )
    found = found.detach().to(call.device, torch.float32)
    broken = [image for image, one in zip(images, found, strict=True) if not bool(one.isfinite().all())]
    if broken:
        raise StudyError(
            f"{external.external} returned values that are not finite for {', '.join(broken)}",
            todo="check the attack and the source's weights; in a run, no row of this unit (the attack on one shard) "
            "was written",
        )
    if float(found.abs().max()) > _MOST:
        raise StudyError(
            f"{external.external} returned values from {float(found.min()):g} to {float(found.max()):g}",
            accepted="images in 0..1",
            todo="divide by 255 in the attack if it works on pixel values",
        )
    return found


def _held_to(clean: Tensor, found: Tensor, epsilon: float | None) -> tuple[Pixels, list[float]]:
    """Return the images as `uint8`, rounded and projected, and the excess of each image in pixel values.

    `clean` are pixels in 0..255, and `found` are images in 0..1. The excess of an image is the largest distance by
    which a pixel value was outside the budget or outside 0..255. The excess is at most 0 for an image inside both
    ranges.
    """
    values = found * 255
    excess = torch.maximum(values - 255, -values).flatten(1).amax(1)
    low, high = torch.zeros_like(clean, dtype=torch.int16), torch.full_like(clean, 255, dtype=torch.int16)
    if epsilon is not None:
        moved = (values - clean).abs().flatten(1).amax(1)
        excess = torch.maximum(excess, moved - epsilon)
        before, most = clean.to(torch.int16), math.floor(epsilon)
        low, high = torch.maximum(low, before - most), torch.minimum(high, before + most)
    whole = torch.clamp(values.round().to(torch.int16), low, high).to(torch.uint8)
    return whole.contiguous().cpu().numpy(), excess.tolist()


def _notes(external: External, engine: Engine, passes: Passes, outside: Sequence[float], count: int) -> list[str]:
    found = []
    if outside:
        found.append(
            f"{external.external} left the budget or 0..255 on {len(outside)} of {count} images, by up to "
            f"{max(outside):.2f} pixel values; these images were projected"
        )
    if passes.forwards == 0:
        found.append(f"{external.external} called no source model, so its images do not depend on the sources")
    if engine.precision == "bfloat16":
        found.append(f"{external.external} computes in float32: bfloat16 is for this program's own attacks")
    return found


def _described(found: object) -> str:
    if isinstance(found, Tensor):
        return f"a {str(found.dtype).removeprefix('torch.')} tensor {tuple(found.shape)}"
    return f"{type(found).__name__}, not a tensor"


def _name_of(model: nn.Module) -> str:
    """Return a name for the network of `model`: the name in timm's record, or the class name in lower case."""
    network = getattr(model, "network", model)
    recorded = getattr(network, "default_cfg", None) or {}
    return str(recorded.get("architecture") or type(network).__name__.lower())
