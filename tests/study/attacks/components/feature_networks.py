"""What tests of losses of features share: tiny networks in double precision, and the loop written out."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from study.attacks import Attack
from study.attacks.loop import Engine, ImageBatch, perturbations
from study.reproducibility.rng import Streams

SIZE = 16
LABELS = np.array([3, 1, 4])
IDS = ["a", "b", "c"]
KEY = ("features",)
BUDGET = {"step": "sign", "steps": 3, "epsilon": 9}
"""Steps of 3 pixel values: exact in float32, so that our images and an oracle's in double precision are the same."""

LAYER = "trunk.3"


class Net(nn.Module):
    """Convolutions on pixel values, in double precision: no sign of a gradient hangs on a rounding."""

    def __init__(self, seed: int = 0, scale: float = 20.0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.trunk = nn.Sequential(
                *(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 1, 1), nn.ReLU()),
                *(nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()),
            )
            self.head = nn.Linear(8, 10)
        self.scale = scale
        self.double().eval()

    def forward(self, pixels):
        return self.scale * self.head(self.trunk(pixels.double() / 255 - 0.5).mean((2, 3)))


class Unit(nn.Module):
    """The same network on images of 0..1, which torchattack takes."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.eval()

    def forward(self, images):
        return self.net(images * 255)


def clean(count: int = 3) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (count, 3, SIZE, SIZE), dtype=np.uint8)


def origin() -> torch.Tensor:
    return torch.from_numpy(clean()).double()


def drawn() -> Streams:
    """The random numbers of the images in `moved`."""
    return Streams(KEY, IDS)


def moved(net, keys, goal="untargeted", true=None) -> torch.Tensor:
    """The images (N, C, H, W) at the end of our attack, in pixel values, projected as every step's are."""
    attack = Attack.model_validate(keys)
    given = ImageBatch(clean(), LABELS, IDS, own=true)
    engine = Engine(batch=3, layout="contiguous")
    found = perturbations([net], attack, goal, given, key=KEY, engine=engine)
    delta = torch.cat([deltas[-1] for _, deltas, _ in found]).double()
    return (origin() + delta.clamp(-9, 9)).clamp(0, 255)


def climbed(gradient, steps=3, size=3.0, momentum=0.0, start=None) -> torch.Tensor:
    """Sign steps along `gradient(image)`, written out, in double precision."""
    first = origin()
    image = first.clone() if start is None else (first + start.double().clamp(-9, 9)).clamp(0, 255)
    total = torch.zeros_like(image)
    for _ in range(steps):
        found = gradient(image)
        if momentum:
            found = found / found.abs().mean((1, 2, 3), keepdim=True)
        total = momentum * total + found
        image = first + (image + size * total.sign() - first).clamp(-9, 9)
        image = image.clamp(0, 255)
    return image


def gradient_of(loss):
    """The function from images to the gradient of `loss(image)`, a sum over the images."""

    def found(image):
        image = image.detach().requires_grad_(True)
        return torch.autograd.grad(loss(image), image)[0]

    return found


def features(net, image, layer: int = 3):
    """The output of `trunk.<layer>`."""
    return net.trunk[: layer + 1](image.double() / 255 - 0.5)


def rest(net, values, layer: int = 3):
    """The logits for features at `trunk.<layer>`."""
    return net.scale * net.head(net.trunk[layer + 1 :](values).mean((2, 3)))


def feature_gradient(net, image, score):
    """d score(logits) / d features, for each image of the batch alone."""
    found = []
    for index in range(len(image)):
        values = features(net, image[index : index + 1]).detach().requires_grad_(True)
        found.append(torch.autograd.grad(score(rest(net, values), index), values)[0])
    return torch.cat(found)


def logit(logits, index):
    return logits[0, LABELS[index]]


def probability(logits, index):
    return logits.softmax(-1)[0, LABELS[index]]


def unit(values):
    return torch.stack([one / one.norm() for one in values])
