"""Checks that folding and memory layouts change gradients only by rounding, and measures the time of a gradient.

An arrangement of a network is a memory layout, with or without folded batch norms.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch
from numpy.typing import NDArray

from on_gpu.presets import LEAST_COSINE
from on_gpu.record import Step
from on_gpu.setting import Setting, cosines, images, passes, prepare, synchronise
from study.models.classifier import Classifier
from study.reproducibility import numerics
from study.reproducibility.numerics import Layout, Precision

COUNT = 8
_ARRANGED: tuple[tuple[Layout, bool], ...] = (
    ("contiguous", False),
    ("contiguous", True),
    ("channels-last", False),
    ("channels-last", True),
)
"""The arrangements: memory layout, and whether batch norms are folded. The first is the reference, as other libraries
use it."""


def check(setting: Setting, step: Step) -> None:
    """Compare every arrangement with the reference in float32, and measure the difference of other precisions."""
    for network in setting.sizes.networks:
        if not step.room_for(network, 4.0 if setting.on_gpu else 1.0):
            continue
        with step.case(network):
            _of_network(setting, step, network)


def _of_network(setting: Setting, step: Step, network: str) -> None:
    side = setting.sizes.side
    clean = torch.from_numpy(images(COUNT, side).clean).to(setting.device, torch.float32)
    reference: NDArray[np.float32] | None = None
    least, taken = 1.0, {}
    for layout, fold in _ARRANGED:
        model = setting.load(network, side, layout=layout, fold=fold)
        given = clean.contiguous(memory_format=numerics.memory_format(layout))
        found = _on_host(_gradient(setting, model, given, "float32"))
        reference = found if reference is None else reference
        least = min(least, float(cosines(found, reference).min()))
        name = f"{layout}, {'folded' if fold else 'as it is'}"
        taken[f"{name}, us an image"] = _microseconds(setting, model, given)
    step.check(
        network, least >= LEAST_COSINE, f"a gradient's cosine with the reference is {least:.6f}", cosine=least, **taken
    )
    assert reference is not None, "there is an arrangement"
    far = {}
    for precision in setting.precisions[1:]:
        other = _on_host(_gradient(setting, model, given, precision))
        far[f"{precision}, least cosine"] = round(float(cosines(other, reference).min()), 5)
    step.measured(f"{network}, other precisions", **far)


def _gradient(setting: Setting, model: Classifier, given: torch.Tensor, precision: Precision) -> torch.Tensor:
    prepare(setting.threads, setting.device)
    leaf = given.detach().requires_grad_(True)
    labels = torch.arange(len(given), device=given.device)
    with passes(setting.device, precision):
        logits = model.in_precision(precision)(leaf)
        loss = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
        (found,) = torch.autograd.grad(loss, leaf)
    return found


def _on_host(gradient: torch.Tensor) -> NDArray[np.float32]:
    held: NDArray[np.float32] = gradient.contiguous().cpu().numpy()
    return held


def _microseconds(setting: Setting, model: Classifier, given: torch.Tensor, rounds: int = 3) -> float:
    """Return the median time of a gradient of one image, in microseconds. A pass has 8 images, on a GPU 64."""
    many = given.repeat(8 if setting.on_gpu else 1, 1, 1, 1).contiguous(memory_format=model.memory_format)
    times = []
    for _ in range(rounds + 1):
        synchronise(setting.device)
        began = time.perf_counter()
        _gradient(setting, model, many, "float32")
        synchronise(setting.device)
        times.append(time.perf_counter() - began)
    return round(1e6 * statistics.median(times[1:]) / len(many), 1)
