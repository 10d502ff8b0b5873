"""What all steps work on: the device, networks with random weights, drawn images, and recipes of a few steps.

Nothing is downloaded. Weights are random, so that times are those of trained networks and success rates are not.
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
    """How much is tried.

    Attributes:
        networks: Networks by their names in tables; the speed of all but the last is measured.
        side: Pixels of an image's side where time is measured, and `exact_side` where images are compared.
        residual, depthwise, transformer: The networks of comparisons.
        batches: Images in a pass: the first is that of the comparison with others.
        peer_batch: Images in a pass of TransferAttack's users.
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
"""timm's networks for tests, which take milliseconds: that the script runs to its end is tried, not the processor."""


@dataclass(frozen=True)
class Mode:
    """How gradients are computed, in the words of a spec's `numerics`."""

    precision: Precision = "float32"
    compile: bool | str = False

    def __str__(self) -> str:
        if not self.compile:
            return self.precision
        return f"{self.precision}, {'compiled' if self.compile is True else self.compile}"


@dataclass(frozen=True)
class Setting:
    """The device and the sizes. `transferattack` is the folder of a checkout, if one is given."""

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
        """Those that differ on this device; on a CPU tf32 is float32."""
        return ("float32", "tf32", "bfloat16") if self.on_gpu else ("float32", "bfloat16")

    @property
    def timed_precisions(self) -> tuple[Precision, ...]:
        """Those whose attacks are timed: bfloat16 takes ten times as long on many processors."""
        return self.precisions if self.on_gpu else ("float32",)

    def reference(self, network: str, side: int, weights: int = 0) -> Model:
        """The network for images of `side` pixels."""
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
        """A network with random weights, as a study loads it."""
        where = device or self.device
        reference = self.reference(network, side, weights)
        model = loading.load(network, reference, device=where, fold=fold, layout=layout)
        if compile_:
            model.compile_with(compile_)
        return model


def images(count: int, side: int, name: str = "image") -> ImageBatch:
    """Drawn images with smooth colours and some noise, `uint8` (N, 3, side, side), with drawn labels."""
    noise = (draws(count * 3 * side * side, "noise", name) >> np.uint64(59)).astype(np.float32)
    coarse = (draws(count * 3 * 16, "colours", name) >> np.uint64(56)).astype(np.float32).reshape(count, 3, 4, 4)
    smooth = torch.nn.functional.interpolate(torch.from_numpy(coarse), (side, side), mode="bilinear").numpy()
    mixed = 0.85 * smooth + noise.reshape(count, 3, side, side)
    labels = (draws(count, "labels", name) % np.uint64(1000)).astype(np.int64)
    return ImageBatch(mixed.clip(0, 255).astype(np.uint8), labels, [f"{name}{number}" for number in range(count)])


def labelled(model: Classifier, given: ImageBatch, *, device: str, batch: int) -> ImageBatch:
    """The images with the labels that `model` gives them, so that an untargeted attack has something to leave."""
    found = predict(model, given.clean, batch=batch, device=device).top5[:, 0]
    return ImageBatch(given.clean, found.astype(np.int64), given.images)


def recipe(name: str, **changed: Any) -> Attack:
    """One of the main attacks, with keys that replace its own."""
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
    """Attack images in the precision of `how`. Other images are mixed in from `pool`, or from those given."""
    prepare(threads, how.device)
    mixed = pool or Pool(given.clean, given.labels)
    return craft(models, attack, "untargeted", given, key=KEY, engine=how, pool=mixed if attack.others else None)


def prepare(threads: int, device: str) -> None:
    """Set up this process as a worker of a study does."""
    numerics.fix(threads, device=device)


@contextmanager
def passes(device: str, precision: Precision) -> Iterator[None]:
    """A context for bare passes of a network in a precision, which `Classifier.in_precision` has cast."""
    with numerics.network_pass(precision, device), numerics.autocast(precision, device):
        yield


def same_bits(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether arrays are equal."""
    return one.shape == other.shape and bool((one == other).all())


def digest(pixels: NDArray[np.uint8]) -> str:
    """The first 16 digits of the SHA-256 of pixels."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()[:16]


def cosines(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """The cosine (N,) of the angle between two gradients of each image; 1 where both are 0."""
    left, right = (part.reshape(len(part), -1).astype(np.float64) for part in (one, other))
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    both_zero = (left == 0).all(1) & (right == 0).all(1)
    found: NDArray[np.float64] = np.where(both_zero, 1.0, (left * right).sum(1) / np.maximum(lengths, 1e-300))
    return found


def synchronise(device: str) -> None:
    """Wait until the device has finished."""
    if device != "cpu":
        torch.cuda.synchronize()
