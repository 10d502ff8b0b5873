"""Compares every preset on the device with the same preset on the CPU.

The gradient of one step and the images after three steps are compared. The CPU's side is computed by as many processes
as there are cores, while the device computes the other side. Without a GPU, the other side is this CPU in the reference
mode: contiguous, nothing folded.
"""

from __future__ import annotations

import functools
import multiprocessing
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from on_gpu.record import Step
from on_gpu.setting import KEY, Setting, cosines, images, labelled, prepare, same_bits
from study.attacks import Attack
from study.attacks.kinds import Pool
from study.attacks.loop import Engine, ImageBatch, craft, step_directions
from study.attacks.part import PartOf
from study.attacks.presets import keys_of, known
from study.models.classifier import Classifier
from study.models.predict import predict
from study.models.weights.weight_set import WeightSet
from study.reproducibility.numerics import Layout

COUNT, BATCH, STEPS = 8, 4, 3
LEAST_COSINE, MOST_IMAGES = 0.9999, 1
_COUNTS = ("copies", "samples", "masks", "operators", "inner", "inner_steps", "images", "points", "rounds")
"""Parameters that only say how often something is done. They are reduced to 2, which is enough for a comparison."""
_FOR_TRANSFORMERS = {"pna", "tgr", "vdc", "att"}


@dataclass(frozen=True)
class Side:
    """One of the two sides: a device, and the layout and folding of networks there."""

    setting: Setting
    device: str
    layout: Layout = "channels-last"
    fold: bool = True


@dataclass(frozen=True)
class Made:
    """The result of a preset on N = `COUNT` images.

    Attributes:
        direction: The direction of the first step, float32 (N, C, H, W).
        pixels: The images after all steps, uint8 (N, C, H, W).
    """

    direction: NDArray[np.float32]
    pixels: NDArray[np.uint8]


def check(setting: Setting, step: Step) -> None:
    """Compare all presets on both sides, the cheapest presets first."""
    reference = Side(setting, "cpu")
    other = Side(setting, setting.device) if setting.on_gpu else Side(setting, "cpu", "contiguous", fold=False)
    names = sorted(known(), key=lambda name: few(name).gradients(STEPS, 1))
    # The processes are forked before this process has used a GPU.
    with multiprocessing.get_context("fork").Pool(setting.threads) as pool:
        expected = pool.imap(functools.partial(_tried, reference), names)
        least: dict[str, float] = {}
        for name, (wanted, error) in zip(names, expected, strict=True):
            if not step.room_for(name, 2.0):
                break
            with step.case(name):
                if wanted is None:
                    step.check(name, False, f"on the CPU: {error}")
                    continue
                least[name] = _compare(step, name, wanted, other, reference)
        pool.terminate()
    if least:
        worst = min(least, key=least.__getitem__)
        step.measured("together", presets=len(least), of=len(names), least_cosine=round(least[worst], 7), in_=worst)


def _tried(side: Side, name: str) -> tuple[Made | None, str]:
    """Return the result of a preset; if it fails, None and its error as text.

    The error is text, because some error objects cannot be sent between processes.
    """
    try:
        return made(side, name), ""
    except Exception as error:  # noqa: BLE001 - the error is the result of this preset
        return None, f"{type(error).__name__}: {error}"


def _compare(step: Step, name: str, wanted: Made, other: Side, reference: Side) -> float:
    """Check one preset. Returns the smallest cosine between the first steps of the two sides, over all images."""
    began = time.perf_counter()
    found = made(other, name)
    seconds = time.perf_counter() - began
    again = made(other, name)
    least = float(cosines(found.direction, wanted.direction).min())
    hits = [_fooled(reference, name, one.pixels) for one in (wanted, found)]
    repeats = same_bits(found.pixels, again.pixels) and same_bits(found.direction, again.direction)
    faults = [
        *([f"the gradient's cosine is {least:.6f}"] if least < LEAST_COSINE else []),
        *([f"{hits[1]} images succeed, on the CPU {hits[0]}"] if abs(hits[0] - hits[1]) > MOST_IMAGES else []),
        *([] if repeats else ["a second run gives other bits"]),
    ]
    step.check(
        name,
        not faults,
        "; ".join(faults),
        cosine=round(least, 7),
        succeeded=hits[1],
        succeeded_on_cpu=hits[0],
        pixels_equal=round(float((found.pixels == wanted.pixels).mean()), 4),
        seconds=round(seconds, 3),
    )
    return least


def made(side: Side, name: str) -> Made:
    """Run a preset on one side, and return its result."""
    prepare(1 if side.device == "cpu" else side.setting.threads, side.device)
    attack = few(name)
    models = [networks(side, transformer=_needs_transformer(attack), several=attack.uses_weight_sets)]
    given = _given(side.setting, _needs_transformer(attack))
    engine = Engine(batch=BATCH, device=side.device, layout=side.layout)
    # All predicted labels may be the same. A pool of other images needs several labels, so it gets random labels.
    drawn = images(COUNT, side.setting.sizes.exact_side).labels
    pool = Pool(given.clean, drawn) if attack.others else None
    shared: dict[str, Any] = {"key": KEY, "engine": engine, "pool": pool}
    direction = step_directions(models, first_step(name), "untargeted", given, **shared)
    if attack.budget.minimal is not None:
        pixels = (given.clean + 16 * np.sign(direction)).clip(0, 255).astype(np.uint8)
    else:
        pixels = craft(models, attack, "untargeted", given, **shared).pixels[-COUNT:]
    return Made(direction, pixels)


def few(name: str) -> Attack:
    """Return a preset with at most three steps, and with the parameters of `_COUNTS` reduced to at most 2.

    A budget that is matched to another attack becomes a fixed RMSD.
    """
    return Attack.model_validate(_few_keys(name))


def first_step(name: str) -> Attack:
    """Return a preset reduced to its first step, which goes along the gradient and not along its sign.

    So a cosine between the steps of two sides is the cosine between their gradients.
    """
    keys = _few_keys(name)
    if "minimal" in (keys.get("budget") or {}):
        return Attack.model_validate(keys | {"step": "l2"})
    for key in ("learning_rate", "checkpoints"):
        keys.pop(key, None)
    return Attack.model_validate(keys | {"steps": 1, "step": "l2", "step_size": 4})


def _few_keys(name: str) -> dict[str, Any]:
    keys = keys_of(name, {})
    keys["steps"] = min(STEPS, keys["steps"])
    if isinstance(keys.get("budget"), dict) and keys["budget"].get("rmsd") == "matched":
        keys["budget"] = {"rmsd": 9.5}
    for key in ("views", "points", "forward"):
        if key in keys:
            keys[key] = [_fewer(key.removesuffix("s"), part) for part in keys[key]]
    for key in ("smoothing", "variance"):
        if isinstance(keys.get(key), dict):
            keys[key] = {one: min(2, value) if one in _COUNTS else value for one, value in keys[key].items()}
    if isinstance(keys.get("objective"), dict):
        keys["objective"] = _fewer("objective", keys["objective"])
    if keys.get("first") == "logit":
        keys["first"] = {"preset": "logit", "steps": 2}
    return keys


def _fewer(kind: str, part: Any) -> dict[str, Any]:
    component = PartOf(kind).read(part).component()
    counted = {one: 2 for one, value in component if one in _COUNTS and isinstance(value, int) and value > 2}
    return {component.name: component.model_dump(mode="json") | counted}


def _needs_transformer(attack: Attack) -> bool:
    return bool({one.name for one in attack.assembly} & _FOR_TRANSFORMERS)


@functools.cache
def networks(side: Side, *, transformer: bool, several: bool) -> Classifier:
    """Return the source model of a side. With `several`, the model has a set of three random weights."""
    setting = side.setting
    name = setting.sizes.transformer if transformer else setting.sizes.residual
    size = setting.sizes.exact_side
    if not several:
        return setting.load(name, size, device=side.device, layout=side.layout, fold=side.fold)
    model = setting.load(name, size, fold=False, device="cpu", layout=side.layout)
    states = [
        setting.load(name, size, device="cpu", weights=seed, fold=False).network.state_dict() for seed in range(3)
    ]
    model.weight_set = WeightSet(states, [one for one, _ in model.network.named_parameters()])
    model.weight_set.put(model.network, model.weight_set.mean)
    return model.to(side.device)


@functools.cache
def _given(setting: Setting, transformer: bool) -> ImageBatch:
    """Return the images with the labels that the network predicts on the CPU. Both sides get the same labels."""
    model = networks(Side(setting, "cpu"), transformer=transformer, several=False)
    return labelled(model, images(COUNT, setting.sizes.exact_side), device="cpu", batch=BATCH)


def _fooled(side: Side, name: str, pixels: NDArray[np.uint8]) -> int:
    """Return the number of images for which the network, on the CPU, no longer predicts their label."""
    transformer = _needs_transformer(few(name))
    model = networks(side, transformer=transformer, several=False)
    found = predict(model, pixels, batch=BATCH, device="cpu").top5[:, 0]
    return int((found != _given(side.setting, transformer).labels).sum())
