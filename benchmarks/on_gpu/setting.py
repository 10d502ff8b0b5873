"""What all steps use: the device, networks with random weights, random images, and recipes of a few steps.

Nothing is downloaded. With random weights, passes take as long as with trained weights, but success rates differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import engine
import numpy as np
import torch
from numpy.typing import NDArray

from study.attacks import Attack
from study.attacks.kinds import Pool
from study.attacks.loop import Crafted, Engine, ImageBatch, craft
from study.attacks.presets import keys_of
from study.models import Model, loading
from study.models.classifier import Classifier
from study.models.predict import predict
from study.reproducibility import numerics
from study.reproducibility.numerics import Layout, Precision
from study.reproducibility.rng import draws

KEY = ("gpu",)
NO_GPU = "no GPU"

MAIN = ("MI", "DI", "TI", "SI", "SG", "VMI", "Admix", "SGM")
"""The attacks that are tried in every mode, by their names in `engine.py`."""


@dataclass(frozen=True)
class Sizes:
    """The networks and sizes of a run.

    Attributes:
        networks: The networks by their names in tables. On a GPU, the speed of all but the last is measured.
        side: Side of the images in pixels, where time is measured.
        exact_side: Side of the images in pixels, where images are compared.
        residual: The name of the network with residual blocks for comparisons.
        depthwise: The name of the network with depthwise convolutions for comparisons.
        transformer: The name of the transformer for comparisons.
        batches: Numbers of images in a pass. The first number is used for comparisons with other libraries.
        peer_batch: Number of images in a pass of TransferAttack's loop.
    """

    networks: dict[str, dict[str, Any]]
    side: int
    exact_side: int
    residual: str
    depthwise: str
    transformer: str
    batches: tuple[int, ...]
    peer_batch: int


def _network(reference: str, **keys: Any) -> dict[str, Any]:
    return {"network": reference, "weights": "random:0", **keys}


ON_GPU = Sizes(
    networks={
        "ResNet-50": _network("torchvision:resnet50"),
        "ResNet-18": _network("torchvision:resnet18"),
        "EfficientNet-Lite0": _network("timm:tf_efficientnet_lite0"),
        "ViT-B/16": _network("timm:vit_base_patch16_224"),
        "ViT-Ti/16": _network("timm:vit_tiny_patch16_224"),
    },
    side=224,
    exact_side=112,
    residual="ResNet-18",
    depthwise="EfficientNet-Lite0",
    transformer="ViT-Ti/16",
    batches=(256, 32, 64, 128, 512),
    peer_batch=32,
)

ON_CPU = Sizes(
    networks={
        "test ResNet": _network("timm:test_resnet"),
        "test EfficientNet": _network("timm:test_efficientnet"),
        "test ViT": _network("timm:test_vit"),
    },
    side=64,
    exact_side=32,
    residual="test ResNet",
    depthwise="test EfficientNet",
    transformer="test ViT",
    batches=(16, 4),
    peer_batch=4,
)
"""timm's networks for tests, which take milliseconds. On a CPU, a run only shows that the script works to its end."""


@dataclass(frozen=True)
class Mode:
    """How gradients are computed: the keys `precision` and `compile` of a spec's `numerics`."""

    precision: Precision = "float32"
    compile: bool | str = False

    def __str__(self) -> str:
        if not self.compile:
            return self.precision
        return f"{self.precision}, {'compiled' if self.compile is True else self.compile}"


@dataclass(frozen=True)
class Setting:
    """Where and on what the steps run.

    Attributes:
        device: The device: `cpu` or `cuda`.
        threads: Number of threads and processes on the host.
        folder: The folder of the results.
        transferattack: The folder of a checkout of TransferAttack; None without one.
    """

    device: str
    threads: int
    folder: Path
    transferattack: Path | None = None

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"

    @property
    def sizes(self) -> Sizes:
        return ON_GPU if self.on_gpu else ON_CPU

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """The precisions that differ on this device. On a CPU, tf32 is the same as float32."""
        return ("float32", "tf32", "bfloat16") if self.on_gpu else ("float32", "bfloat16")

    @property
    def timed_precisions(self) -> tuple[Precision, ...]:
        """The precisions in which attacks are timed. On a CPU, bfloat16 is left out, because it is often very slow."""
        return self.precisions if self.on_gpu else ("float32",)

    def reference(self, network: str, side: int, weights: int = 0) -> Model:
        """Return the model reference of a network for images of `side` x `side` pixels.

        `weights`: the seed of its random weights.
        """
        keys = {**self.sizes.networks[network], "size": side, "weights": f"random:{weights}"}
        if "vit" in keys["network"]:
            keys["arguments"] = {"img_size": side}
        return Model.model_validate(keys)

    def load(
        self,
        network: str,
        side: int,
        *,
        device: str | None = None,
        weights: int = 0,
        fold: bool = True,
        layout: Layout = "channels-last",
        compile_: bool | str = False,
    ) -> Classifier:
        """Return a network with random weights, loaded as in a study."""
        where = device or self.device
        reference = self.reference(network, side, weights)
        model = loading.load(network, reference, device=where, fold=fold, layout=layout)
        if compile_:
            model.compile_with(compile_)
        return model


def images(count: int, side: int, name: str = "image") -> ImageBatch:
    """Return random images with smooth colours and some noise, `uint8` (N, 3, side, side), with random labels.

    `count` is N. `name` is a prefix of the image ids, and decides the random numbers.
    """
    noise = (draws(count * 3 * side * side, "noise", name) >> np.uint64(59)).astype(np.float32)
    coarse = (draws(count * 3 * 16, "colours", name) >> np.uint64(56)).astype(np.float32).reshape(count, 3, 4, 4)
    smooth = torch.nn.functional.interpolate(torch.from_numpy(coarse), (side, side), mode="bilinear").numpy()
    mixed = 0.85 * smooth + noise.reshape(count, 3, side, side)
    labels = (draws(count, "labels", name) % np.uint64(1000)).astype(np.int64)
    return ImageBatch(mixed.clip(0, 255).astype(np.uint8), labels, [f"{name}{number}" for number in range(count)])


def labelled(model: Classifier, given: ImageBatch, *, device: str, batch: int) -> ImageBatch:
    """Return the images with the labels that `model` predicts. So an untargeted attack starts from correct labels."""
    found = predict(model, given.clean, batch=batch, device=device).top5[:, 0]
    return ImageBatch(given.clean, found.astype(np.int64), given.images)


def recipe(name: str, **changed: Any) -> Attack:
    """Return the recipe of one of the main attacks, with the keys `changed` replaced."""
    preset, keys = (engine.OURS | engine.ON_GPU)[name]
    return Attack.model_validate(keys_of(preset, {**keys, **changed}))


def run(
    models: Sequence[torch.nn.Module],
    attack: Attack,
    given: ImageBatch,
    how: Engine,
    *,
    pool: Pool | None = None,
    threads: int = 1,
) -> Crafted:
    """Attack images with the settings `how`, and return the result.

    An attack that mixes in other images takes them from `pool`, or without a pool from `given`.
    """
    prepare(threads, how.device)
    mixed = pool or Pool(given.clean, given.labels)
    return craft(models, attack, "untargeted", given, key=KEY, engine=how, pool=mixed if attack.others else None)


def prepare(threads: int, device: str) -> None:
    """Set the threads and numerics of this process, as a worker of a study does."""
    numerics.fix(threads, device=device)


@contextmanager
def passes(device: str, precision: Precision) -> Iterator[None]:
    """Return a context for passes of a network in `precision`. `Classifier.in_precision` must have cast the network."""
    with numerics.network_pass(precision, device), numerics.autocast(precision, device):
        yield


def same_bits(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Return whether two arrays have the same shape and equal values."""
    return one.shape == other.shape and bool((one == other).all())


def digest(pixels: NDArray[np.uint8]) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of pixels."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()[:16]


def cosines(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """Return the cosine of the angle between two gradients for each of N images, (N,); 1 if both gradients are 0."""
    left, right = (part.reshape(len(part), -1).astype(np.float64) for part in (one, other))
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    both_zero = (left == 0).all(1) & (right == 0).all(1)
    found: NDArray[np.float64] = np.where(both_zero, 1.0, (left * right).sum(1) / np.maximum(lengths, 1e-300))
    return found


def synchronise(device: str) -> None:
    """Wait until the device has finished its work."""
    if device != "cpu":
        torch.cuda.synchronize()
