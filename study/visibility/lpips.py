"""LPIPS: the distance between two images in the features of a network.

The weights of the features were fitted to human judgements of the similarity of image patches.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torchvision import models

from study.models.weights import state_dict
from study.visibility.settings import LpipsOptions, NetworkName

_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_EPSILON = 1e-10

_NETWORKS: Mapping[NetworkName, tuple[Callable[..., nn.Module], tuple[int, ...], tuple[int, ...]]] = {
    "alex": (models.alexnet, (2, 5, 8, 10, 12), (64, 192, 384, 256, 256)),
    "vgg": (models.vgg16, (4, 9, 16, 23, 30), (64, 128, 256, 512, 512)),
    "squeeze": (models.squeezenet1_1, (2, 5, 8, 10, 11, 12, 13), (64, 128, 256, 384, 384, 512, 512)),
}
"""For each name of a network: the function that builds the network, and two tuples with an entry per slice of layers.

The first tuple has the index in `features` at which the slice ends. The second tuple has the number of channels of the
slice's output."""


class Lpips(nn.Module):
    """LPIPS, version 0.1 (Zhang et al. 2018, arXiv:1801.03924, equation 1), with the layers of the package `lpips`.

    The network's layers are divided into slices. The features after each slice are divided by their L2 norm over
    channels. The squared differences between the features of both images are weighted by channel and averaged over
    positions. The distance is the sum over slices.
    """

    def __init__(self, network: NetworkName) -> None:
        super().__init__()
        build, self._ends, channels = _NETWORKS[network]
        layers = build(weights=None).features
        assert isinstance(layers, nn.Sequential), "the layers of all three networks form a sequence"
        self.features = layers[: self._ends[-1]]
        self.weights = nn.ParameterList([nn.Parameter(torch.zeros(1, count, 1, 1)) for count in channels])

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """Return the distances (N,) between images (N, C, H, W) in pixel values 0..255.

        A grey image (C = 1) counts as a colour image with three equal channels.
        """
        distance = one.new_zeros(len(one))
        left, right = self._fitted(one), self._fitted(other)
        start = 0
        for end, weights in zip(self._ends, self.weights, strict=True):
            left, right = self.features[start:end](left), self.features[start:end](right)
            difference = (_normalised(left) - _normalised(right)) ** 2
            distance = distance + (weights * difference).sum(1).mean((1, 2))
            start = end
        return distance

    def _fitted(self, images: Tensor) -> Tensor:
        shift, scale = (images.new_tensor(each)[:, None, None] for each in (_SHIFT, _SCALE))
        return (images.expand(-1, 3, -1, -1) / 127.5 - 1 - shift) / scale


def load(options: LpipsOptions, device: str) -> Lpips:
    """Load the network with its weights on `device`.

    Raises StudyError if the file is missing, has another SHA-256, or does not fit the network.
    """
    network = Lpips(options.network)
    state = _renamed(state_dict.read(options.file, sha256=options.sha256))
    state_dict.load(network, state, called=_called(options), origin=str(options.file))
    return network.eval().requires_grad_(False).to(device)


def check_file(options: LpipsOptions) -> None:
    """Raise StudyError if the file is missing, or if names, shapes or types of its tensors do not fit the network."""
    with torch.device("meta"):
        network = Lpips(options.network)
    state = _renamed(state_dict.outline(options.file))
    state_dict.fitted(network, state, called=_called(options), origin=str(options.file))


def _called(options: LpipsOptions) -> str:
    return f"LPIPS with the network '{options.network}'"


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a file of the package `lpips` under the names of `Lpips`.

    Second copies of linear layers and the constants of the scaling are left out.
    """
    found = {}
    for name, tensor in state.items():
        if inside := re.fullmatch(r"net\.slice\d+\.(\d+\..+)", name):
            found[f"features.{inside[1]}"] = tensor
        elif linear := re.fullmatch(r"lin(\d+)\.model\.1\.weight", name):
            found[f"weights.{linear[1]}"] = tensor
        elif not name.startswith(("lins.", "scaling_layer.")):
            found[name] = tensor
    return found


def _normalised(features: Tensor) -> Tensor:
    return features / (features.square().sum(1, keepdim=True).sqrt() + _EPSILON)
