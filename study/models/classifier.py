"""A network with its preprocessing and its order of outputs: pixels in, logits over the study's labels out."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from study.models.casting import cast_copy
from study.models.compiling import CompiledFunction
from study.models.resizing import resized
from study.models.rewrites import cpu, gpu
from study.models.weights import state_dict
from study.models.weights.weight_set import WeightSet
from study.reproducibility.numerics import Layout, Precision, memory_format

Mode = Literal["crop", "squash", "border"]


@dataclass(frozen=True)
class Preprocessing:
    """The input of a network: (x / scale - mean) / std for pixel values x in 0..255, at `size` x `size` pixels.

    `mean` and `std` have one number for each input channel: 3, or 1 for grey images. `channels` is RGB or BGR.
    """

    size: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 255.0
    channels: str = "RGB"


@dataclass(frozen=True)
class Native:
    """How the network's own zoo prepares an image for published accuracies. Studies do not use this.

    All modes return the central `crop` x `crop` pixels of a resized image. Mode `crop` resizes the shorter side to
    `resize` pixels, mode `squash` resizes both sides to `resize` pixels, and mode `border` resizes the longer side to
    `resize` pixels and adds a border where the image is smaller than the crop.
    """

    resize: int
    crop: int
    interpolation: str
    mode: Mode


def in_size(images: Tensor, expected: Preprocessing) -> Tensor:
    """Resize images (N, C, H, W), of any range of values, to a network's size."""
    if images.shape[-2:] == (expected.size, expected.size):
        return images
    return resized(images, expected.size, expected.interpolation)


def fitted(images: Tensor, expected: Preprocessing) -> Tensor:
    """Resize images (N, C, H, W), of any range of values, to a network's size; put the channels into its order."""
    images = in_size(images, expected)
    return images.flip(1) if expected.channels == "BGR" else images


class Classifier(nn.Module):
    """Float pixels (N, C, H, W) in 0..255, RGB or grey, of any size -> differentiable logits (N, labels).

    Images of another size are resized to the network's size, with antialiasing if they shrink. A network with three
    channels receives a grey image (C = 1) as three equal channels. The network stays in eval mode, and its parameters
    require no gradient.

    `outputs` has, for each label, the index of the network's output. Without `outputs`, the network's outputs are in
    the order of the labels. If the network then has one more output, this first output is the background class
    (TensorFlow's ImageNet models), and its logit is dropped. `weight_set` holds the weights of a source whose weights
    change from step to step; the network starts with their mean.
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
        weight_set: WeightSet | None = None,
    ) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.preprocessing = preprocessing
        self.labels = labels
        self.weight_set = weight_set
        self.digest = _digest(network, preprocessing, identity)
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("outputs", None if outputs is None else torch.tensor(outputs), persistent=False)
        self.memory_format = torch.contiguous_format
        self.folded = 0
        self._compiled: CompiledFunction | None = None
        self._how: bool | str = False
        self._cast: Callable[[], Classifier] | None = None
        self.is_cast = False
        self.parameters_held = sum(parameter.numel() for parameter in network.parameters())
        self.eval()

    def describe(self) -> dict[str, Any]:
        """Return the record of the model in a run: digest, number of parameters, preprocessing."""
        weights = {} if self.weight_set is None else {"weights": len(self.weight_set)}
        return {"digest": self.digest, "parameters": self.parameters_held, **weights, **asdict(self.preprocessing)}

    @property
    def compiled(self) -> bool:
        return self._compiled is not None

    def compile_with(self, how: bool | str) -> None:
        """Use torch.compile from now on, with CUDA graphs if `how` is `cuda-graphs`."""
        self._how = how
        self._compiled = CompiledFunction(self.logits, how, f"the {type(self.network).__name__}")
        if self._cast is not None:
            self._cast().compile_with(how)

    def in_precision(self, precision: Precision) -> Classifier:
        """Return the classifier for passes in `precision`: itself, or for bfloat16 a copy whose weights are cast once.

        The copy is made once and kept; it must run within `numerics.autocast`. A network with a set of weights is never
        copied, because its weights change from step to step.
        """
        if precision != "bfloat16" or self.weight_set is not None or self.is_cast:
            return self
        if self._cast is None:
            # The copy has a network of its own, and is compiled separately.
            own: dict[int, Any] = {id(self.network): cast_copy(self.network), id(self._compiled): None}
            made = copy.deepcopy(self, own)
            made.is_cast = True
            if self.compiled:
                made.compile_with(self._how)
            # A function, because torch registers a module in an attribute as a submodule.
            self._cast = lambda: made
        return self._cast()

    def forward(self, pixels: Tensor) -> Tensor:
        # A compiled network ignores hooks that are added later, such as those of the Skip Gradient Method.
        if self._compiled is None or any(module._forward_hooks for module in self.network.modules()):
            return self.logits(pixels)
        if pixels.device.type != "cpu":
            # The matrix products of a resize switch TF32 off and on, which a compiled graph cannot do.
            pixels = in_size(pixels, self.preprocessing)
            return self._compiled(pixels)
        from study.reproducibility.whole_vectors import without_whole_vectors

        with without_whole_vectors():
            return self._compiled(pixels)

    def logits(self, pixels: Tensor) -> Tensor:
        """Like `forward`, without torch.compile."""
        # Broadcasting makes one channel into three if the mean has three.
        normalised = (fitted(pixels, self.preprocessing) / self.preprocessing.scale - self.mean) / self.std
        return self.in_order(self.network(normalised.contiguous(memory_format=self.memory_format)))

    def in_order(self, outputs: Tensor) -> Tensor:
        """Return the network's outputs (N, ...) as logits (N, labels), in the order of the labels."""
        # SqueezeNets of pretrainedmodels return (N, labels, 1, 1).
        logits = outputs.flatten(1)
        if self.outputs is not None:
            return logits.index_select(1, self.outputs)
        return logits[:, logits.shape[1] - self.labels :]

    def arrange(self, *, fold: bool, layout: Layout, device: str, keep: Collection[str] = ()) -> None:
        """Rewrite the network, with equal results up to rounding, and move it to `device`.

        With `fold`, batch norms are folded into convolutions for speed, except at the layers in `keep`; on a CPU, some
        convolutions are rewritten too. `fold` has no effect on a network with a set of weights: a folded network could
        not take other weights. On a GPU, adaptive average pooling is always replaced, so that its gradients sum in one
        order.
        """
        from study.models.rewrites.folding import fold as fold_into

        self.memory_format = memory_format(layout)
        if fold and self.weight_set is None:
            size, channels = self.preprocessing.size, len(self.preprocessing.mean)
            example = torch.randn(2, channels, size, size, generator=_generator())
            self.folded = fold_into(self.network, example.to(self.mean), keep=keep)
            if device == "cpu":
                cpu.rewrite_convolutions(self.network)
        if device != "cpu":
            gpu.order_gradients(self.network)
        self.to(device)
        self.network.to(memory_format=self.memory_format)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _digest(network: nn.Module, preprocessing: Preprocessing, identity: str) -> str:
    """SHA-256 over the tensors of the network by name, its preprocessing and its `identity`."""
    hashed = hashlib.sha256(json.dumps([identity, asdict(preprocessing)]).encode())
    state_dict.hash_into(hashed.update, network.state_dict())
    return hashed.hexdigest()
