"""What ten steps of MI cost, against the bare forward and backward passes of the network, and against torchattacks.

Run: python benchmarks/engine.py [--quick] [--json]. Both sides in one process, interleaved; medians and their ratios.
Random weights: what a pass costs does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
import torchattacks

from study import numerics
from study.attacks import Attack
from study.attacks.loop import craft
from study.attacks.presets import keys_of
from study.models import Model, zoo

NETWORKS = {"resnet18": "torchvision:resnet18", "efficientnet_lite0": "timm:tf_efficientnet_lite0"}
STEPS, BATCH, SIZE = 10, 16, 224


def measure(network: str, rounds: int) -> dict[str, float]:
    """Median seconds of each side, and the ratios of interest."""
    model = zoo.load(network, Model.model_validate({"network": NETWORKS[network], "weights": "random:0"}))
    clean = np.random.default_rng(0).integers(0, 256, (BATCH, 3, SIZE, SIZE), dtype=np.uint8)
    labels = np.arange(BATCH)
    attack = Attack.model_validate(keys_of("mi", {"steps": STEPS}))
    images = [str(index) for index in range(BATCH)]

    def ours() -> None:
        craft([model], attack, "untargeted", clean=clean, labels=labels, images=images, key=("b",), batch=BATCH)

    def limit() -> None:
        pixels = torch.from_numpy(clean).to(torch.float32, memory_format=torch.channels_last)
        for _ in range(STEPS):
            pixels = pixels.detach().requires_grad_(True)
            torch.autograd.grad(model(pixels).logsumexp(1).sum(), pixels)

    theirs_network = _Normalised(model.network.to(memory_format=torch.contiguous_format), model.mean, model.std)
    mifgsm = torchattacks.MIFGSM(theirs_network, eps=16 / 255, alpha=1.6 / 255, steps=STEPS)
    scaled = torch.from_numpy(clean) / 255

    def torchattacks_mi() -> None:
        model.network.to(memory_format=torch.contiguous_format)
        mifgsm(scaled, torch.from_numpy(labels))
        model.network.to(memory_format=torch.channels_last)

    seconds = interleaved({"ours": ours, "limit": limit, "torchattacks": torchattacks_mi}, rounds)
    return {
        **{f"{side}_seconds": value for side, value in seconds.items()},
        "ratio_to_limit": seconds["ours"] / seconds["limit"],
        "speedup_over_torchattacks": seconds["torchattacks"] / seconds["ours"],
    }


class _Normalised(torch.nn.Module):
    def __init__(self, network: torch.nn.Module, mean: torch.Tensor, std: torch.Tensor) -> None:
        super().__init__()
        self.network, self.mean, self.std = network, mean, std

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network((images - self.mean) / self.std)
        return logits


def interleaved(sides: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median seconds of every side over `rounds`, each round running all of them, after one that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, side in sides.items():
            began = time.perf_counter()
            side()
            if number:
                taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="resnet18 only, fewer rounds")
    parser.add_argument("--json", action="store_true", help="one JSON object, for resnet18, as the last line")
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    numerics.fix(chosen.threads)
    results = {}
    for network in ["resnet18"] if chosen.quick else NETWORKS:
        results[network] = measure(network, 3 if chosen.quick else 7)
        shown = ", ".join(f"{key} {value:.3f}" for key, value in results[network].items())
        print(f"{network}, MI {STEPS} steps, batch {BATCH}, {chosen.threads} threads: {shown}")
    if chosen.json:
        print(json.dumps(results["resnet18"]))


if __name__ == "__main__":
    main()
