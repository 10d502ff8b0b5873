"""The images and weights that golden values are about, made from keyed bits alone: the same on every machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from study.reproducibility.rng import draws

HERE = Path(__file__).parent
RUN = HERE / "run"
"""A finished run of `spec.yaml`, launched beside what `make` makes, twice: with `--limit 9`, and to its end."""

RUN_FORMAT1 = HERE / "run_format1"
"""The same of format 1: every command reads it, and no launch continues it."""

_IMAGES = {"a": "3", "b": "3", "c": "7", "d": "8"}


def bits(*shape: int, key: str, count: int) -> np.ndarray:
    """`count` keyed bits in each number, `uint64` of this shape."""
    return (draws(int(np.prod(shape)), "golden", key) >> np.uint64(64 - count)).reshape(shape)


def weights(*shape: int, key: str, scale: int) -> torch.Tensor:
    """Float32, uniform over (-2^15, 2^15) / 2^scale, every number exact."""
    return torch.from_numpy(((bits(*shape, key=key, count=16) - 32767.5) / 2**scale).astype(np.float32))


def make(folder: Path) -> None:
    """Write `spec.yaml`, `images/` and the two files of weights that it names into `folder`."""
    (folder / "spec.yaml").write_text((HERE / "spec.yaml").read_text())
    for name, label in _IMAGES.items():
        place = folder / "images" / label
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(bits(28, 28, key=name, count=8).astype(np.uint8)).save(place / f"{name}.png")
    flat = {"last.weight": weights(10, 784, key="flat", scale=19), "last.bias": torch.zeros(10)}
    hidden = {
        f"hidden.{layer}.{part}": tensor
        for layer, width in enumerate((784, 500))
        for part, tensor in (
            ("weight", weights(500, width, key=f"d{layer}", scale=19)),
            ("bias", torch.zeros(500)),
        )
    }
    deep = {**hidden, "last.weight": weights(10, 500, key="d2", scale=18), "last.bias": torch.zeros(10)}
    save_file(flat, folder / "flat.safetensors")
    save_file(deep, folder / "deep.safetensors")
