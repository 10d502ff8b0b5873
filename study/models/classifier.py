"""A network with its preprocessing and its label map: pixels in, logits over the study's label set out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from study.models.rewrites import cpu
from study.reproducibility.numerics import Layout, memory_format

Mode = Literal["crop", "squash", "border"]


@dataclass(frozen=True)
class Preprocessing:
    """How a network wants its input: (x / scale - mean) / std at `size` pixels, channels as named.

    `mean` and `std` have as many numbers as the network has input channels: 3, or 1 for grey images.
    """

    size: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 255.0
    channels: str = "RGB"


@dataclass(frozen=True)
class Native:
    """How the network's own zoo makes an image into its input, which accuracies are published for. No model uses it.

    `crop`: the shorter side is resized to `resize` pixels and the centre cropped at `crop` pixels; `squash`: both sides
    are resized and the centre cropped; `border`: the longer side is resized and the rest filled in.
    """

    resize: int
    crop: int
    interpolation: str
    mode: Mode


class Classifier(nn.Module):
    """Float pixels (N, C, H, W) in 0..255 at an image set's own size, RGB or grey -> differentiable logits (N, labels).

    Images of another size are resized to the network's, antialiased where they shrink. A network of three channels sees
    a grey image (C = 1) as three equal ones. `outputs` says which of the network's outputs stands for each label.
    Without it they are in the labels' order, and a network with one class more than there are labels has the background
    class first (TensorFlow's ImageNet models); its logit is left out. Always in eval mode, no parameter requires a
    gradient.
    """

    mean: Tensor
    std: Tensor
    outputs: Tensor | None

    def __init__(
        self,
        network: nn.Module,
        preprocessing: Preprocessing,
        *,
        labels: int,
        identity: str,
        outputs: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.preprocessing = preprocessing
        self.labels = labels
        self.digest = _digest(network, preprocessing, identity)
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("outputs", None if outputs is None else torch.tensor(outputs), persistent=False)
        self.memory_format = torch.contiguous_format
        self.folded = 0
        self._compiled: Callable[[Tensor], Tensor] | None = None
        self.parameters_held = sum(parameter.numel() for parameter in network.parameters())
        self.eval()

    def describe(self) -> dict[str, Any]:
        """What is recorded of the model with a run: digest, number of parameters, preprocessing."""
        return {"digest": self.digest, "parameters": self.parameters_held, **asdict(self.preprocessing)}

    @property
    def compiled(self) -> bool:
        return self._compiled is not None

    def compile_with(self, how: bool | str) -> None:
        """Run through torch.compile from now on, with CUDA graphs where `how` is `cuda-graphs`."""
        self._compiled = torch.compile(self.logits, mode="reduce-overhead" if how == "cuda-graphs" else "default")

    def forward(self, pixels: Tensor) -> Tensor:
        # What is compiled would not see hooks that came later, such as those of skip gradients.
        if self._compiled is None or any(module._forward_hooks for module in self.network.modules()):
            return self.logits(pixels)
        compiled: Tensor = self._compiled(pixels)
        return compiled

    def logits(self, pixels: Tensor) -> Tensor:
        """What `forward` gives, never through torch.compile."""
        wanted = self.preprocessing
        if pixels.shape[-2:] != (wanted.size, wanted.size):
            smooth = wanted.interpolation in ("bilinear", "bicubic")
            pixels = nn.functional.interpolate(
                pixels, (wanted.size, wanted.size), mode=wanted.interpolation, antialias=smooth
            )
        if wanted.channels == "BGR":
            pixels = pixels.flip(1)
        # One channel becomes three here, where the mean has three.
        seen = (pixels / wanted.scale - self.mean) / self.std
        # pretrainedmodels' SqueezeNets leave (N, labels, 1, 1).
        logits: Tensor = self.network(seen.contiguous(memory_format=self.memory_format)).flatten(1)
        if self.outputs is not None:
            return logits.index_select(1, self.outputs)
        return logits[:, logits.shape[1] - self.labels :]

    def arrange(self, *, fold: bool, layout: Layout, device: str) -> None:
        """Rewrite the network for speed, exactly to rounding, and bring it to `device`.

        Folding puts batch norms into convolutions and, on a CPU, writes some convolutions another way.
        """
        from study.models.rewrites.folding import fold as fold_into

        self.memory_format = memory_format(layout)
        if fold:
            size, channels = self.preprocessing.size, len(self.preprocessing.mean)
            example = torch.randn(2, channels, size, size, generator=_generator())
            self.folded = fold_into(self.network, example.to(self.mean))
            if device == "cpu":
                cpu.suit(self.network)
        self.to(device)
        self.network.to(memory_format=self.memory_format)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _digest(network: nn.Module, preprocessing: Preprocessing, identity: str) -> str:
    """SHA-256 over every tensor of the network by name, its preprocessing and what it is called."""
    hashed = hashlib.sha256(json.dumps([identity, asdict(preprocessing)]).encode())
    for name, tensor in sorted(network.state_dict().items()):
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        hashed.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return hashed.hexdigest()
