"""The classifier: a network with its preprocessing, which maps pixels to logits in the order of the study's labels."""

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

    `mean` and `std` have one number for each input channel: 3, or 1 for grey images. `interpolation` is the method that
    resizes images to this size. `channels` is RGB or BGR.
    """

    size: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 255.0
    channels: str = "RGB"


@dataclass(frozen=True)
class Native:
    """How the network's own zoo prepares an image to measure the published accuracy. A study prepares images otherwise.

    All modes return the central `crop` x `crop` pixels of a resized image. Mode `crop` resizes the shorter side to
    `resize` pixels, mode `squash` resizes both sides to `resize` pixels, and mode `border` resizes the longer side to
    `resize` pixels and adds a border where the image is smaller than the crop.
    """

    resize: int
    crop: int
    interpolation: str
    mode: Mode


def in_size(images: Tensor, expected: Preprocessing) -> Tensor:
    """Return images (N, C, H, W), with any range of values, resized to the input size of a network."""
    if images.shape[-2:] == (expected.size, expected.size):
        return images
    return resized(images, expected.size, expected.interpolation)


def fitted(images: Tensor, expected: Preprocessing) -> Tensor:
    """Return images (N, C, H, W), with any range of values, in the input size and the channel order of a network."""
    images = in_size(images, expected)
    return images.flip(1) if expected.channels == "BGR" else images


class Classifier(nn.Module):
    """A module that maps float pixels (N, C, H, W) in 0..255 to differentiable logits (N, number of labels).

    Images are RGB or grey, and have any size. They are resized to the network's size, with antialiasing if they shrink.
    A network with three channels receives a grey image (C = 1) as three equal channels. The network stays in eval mode,
    and its parameters require no gradient.

    `outputs` has, for each label, the index of the network's output. Without `outputs`, the network's outputs are in
    the order of the labels. If the network then has one output more than labels, as TensorFlow's ImageNet models do,
    its first output is the background class, and the logit of this class is dropped. `weight_set` is given for a source
    model whose weights change from one attack step to the next. The network then starts with the mean of these weights.
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
        """Return what a run records of the model: digest, number of parameters, size of a weight set, preprocessing."""
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
        """Return the classifier for passes in `precision`: `self`, or for bfloat16 a copy with bfloat16 weights.

        The first call makes the copy, and further calls return the same copy. The copy must run within
        `numerics.autocast`. A classifier with a `weight_set` is never copied, because its weights change from one
        attack step to the next.
        """
        if precision != "bfloat16" or self.weight_set is not None or self.is_cast:
            return self
        if self._cast is None:
            # The copy has its own network, which is compiled separately.
            own: dict[int, Any] = {id(self.network): cast_copy(self.network), id(self._compiled): None}
            made = copy.deepcopy(self, own)
            made.is_cast = True
            if self.compiled:
                made.compile_with(self._how)
            # The attribute holds a function, because torch would register a module as a submodule.
            self._cast = lambda: made
        return self._cast()

    def forward(self, pixels: Tensor) -> Tensor:
        # A compiled network ignores hooks that are added later, such as those of the Skip Gradient Method.
        if self._compiled is None or any(module._forward_hooks for module in self.network.modules()):
            return self.logits(pixels)
        if pixels.device.type != "cpu":
            # Resizing switches TF32 off and on for its matrix products, which a compiled graph cannot do.
            pixels = in_size(pixels, self.preprocessing)
            return self._compiled(pixels)
        from study.reproducibility.whole_vectors import without_whole_vectors

        with without_whole_vectors():
            return self._compiled(pixels)

    def logits(self, pixels: Tensor) -> Tensor:
        """Return the logits (N, number of labels) of `pixels`, as `forward` does, but without torch.compile."""
        # If the mean has three channels, broadcasting turns one channel of the images into three.
        normalised = (fitted(pixels, self.preprocessing) / self.preprocessing.scale - self.mean) / self.std
        return self.in_order(self.network(normalised.contiguous(memory_format=self.memory_format)))

    def in_order(self, outputs: Tensor) -> Tensor:
        """Return the network's outputs (N, ...) as logits (N, number of labels), in the order of the labels."""
        # SqueezeNets of pretrainedmodels return outputs of the shape (N, number of labels, 1, 1).
        logits = outputs.flatten(1)
        if self.outputs is not None:
            return logits.index_select(1, self.outputs)
        return logits[:, logits.shape[1] - self.labels :]

    def arrange(self, *, fold: bool, layout: Layout, device: str, keep: Collection[str] = ()) -> None:
        """Rewrite the network so that its results stay equal up to rounding, and move it to `device`.

        With `fold`, batch norms are folded into convolutions for speed, except at the layers in `keep`. On a CPU, some
        convolutions are then rewritten too. `fold` has no effect with a `weight_set`, because a folded network cannot
        load other weights. On a GPU, adaptive average pooling is always replaced by code whose backward pass sums
        gradients in a fixed order.
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
    """Return the SHA-256 of the network's named tensors, of its preprocessing and of the text `identity`."""
    hashed = hashlib.sha256(json.dumps([identity, asdict(preprocessing)]).encode())
    state_dict.hash_into(hashed.update, network.state_dict())
    return hashed.hexdigest()
