"""Measures predictions of targets in each precision: their time, and the share of labels that differ from float32.

With random weights, the most probable labels have similar probabilities. So the share is higher than for trained
networks.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch import Tensor

from on_gpu.record import Step
from on_gpu.setting import Setting, images, passes, prepare, synchronise
from study.models.classifier import Classifier
from study.models.predict import predict
from study.reproducibility.numerics import Precision

ROUNDS = 5


def check(setting: Setting, step: Step) -> None:
    """Predict the same images in every precision, in turns."""
    count = 512 if setting.on_gpu else 16
    for network in setting.sizes.networks:
        if step.room_for(network, 4.0 if setting.on_gpu else 0.5):
            with step.case(network):
                step.measured(network, **_of_network(setting, network, count))


def _of_network(setting: Setting, network: str, count: int) -> dict[str, Any]:
    side, batch = setting.sizes.side, setting.sizes.batches[0]
    model = setting.load(network, side)
    clean = images(count, side).clean
    taken: dict[str, list[float]] = {}
    labels: dict[str, Tensor] = {}
    for turn in range(ROUNDS + 1):
        for precision in setting.precisions:
            began = time.perf_counter()
            labels[precision] = _labels(setting, model, torch.from_numpy(clean), batch, precision)
            synchronise(setting.device)
            taken.setdefault(precision, []).append(time.perf_counter() - began)
        prepare(setting.threads, setting.device)
        began = time.perf_counter()
        predict(model, clean, batch=batch, device=setting.device)
        taken.setdefault("as a study does", []).append(time.perf_counter() - began)
        if turn == 0:
            taken.clear()
    return {
        "us_an_image": {name: round(1e6 * statistics.median(times) / count, 2) for name, times in taken.items()},
        "labels_that_differ": {
            precision: round(float((found != labels["float32"]).float().mean()), 4)
            for precision, found in labels.items()
            if precision != "float32"
        },
        "images": count,
    }


def _labels(setting: Setting, model: Classifier, clean: Tensor, batch: int, precision: Precision) -> Tensor:
    """Return the most probable label of each image, (N,), on the host."""
    prepare(setting.threads, setting.device)
    network, found = model.in_precision(precision), []
    with torch.inference_mode():
        for first in range(0, len(clean), batch):
            part = clean[first : first + batch].to(setting.device)
            given = part.to(torch.float32, memory_format=model.memory_format)
            with passes(setting.device, precision):
                found.append(network.logits(given).argmax(1))
    return torch.cat(found).cpu()
