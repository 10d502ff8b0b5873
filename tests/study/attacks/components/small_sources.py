"""Small networks of real classes in double precision, our attack on them, and the loop of an attack written out."""

from __future__ import annotations

import copy

import numpy as np
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional

from study.attacks import Attack
from study.attacks.loop import Engine, ImageBatch, perturbations
from study.models.classifier import Classifier, Preprocessing
from study.models.layers import layers_of
from study.reproducibility.rng import Streams

KEY = ("changes",)
LABELS = np.array([1, 2, 3])
IDS = ("image0", "image1", "image2")
STREAMS = Streams(KEY, IDS)
MEAN, STD = torch.tensor([0.5, 0.4, 0.3]).view(1, -1, 1, 1), torch.tensor([0.3, 0.25, 0.2]).view(1, -1, 1, 1)


def images(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (3, 3, size, size), dtype=np.uint8)


def source(network: nn.Module, size: int, *, fold: bool = False) -> Classifier:
    """A classifier with 10 labels, in double precision."""
    numbers = tuple(MEAN.flatten().tolist()), tuple(STD.flatten().tolist())
    built = Classifier(copy.deepcopy(network), Preprocessing(size, "bilinear", *numbers), labels=10, identity="small")
    built.double()
    built.arrange(fold=fold, layout="contiguous", device="cpu")
    return built


def resnet() -> nn.Module:
    """torchvision's ResNet of bottlenecks, an eighth as wide, with batch norms that do something."""
    kind = torchvision.models.resnet.ResNet
    whole = kind._make_layer

    def narrow(self, block, planes, *given, **options):
        return whole(self, block, planes // 8, *given, **options)

    kind._make_layer = narrow
    try:
        built = kind(torchvision.models.resnet.Bottleneck, [1, 1, 2, 1], num_classes=10)
    finally:
        kind._make_layer = whole
    built.fc = nn.Linear(4 * 512 // 8, 10)
    return _drawn(built)


def vit(size: int, depth: int = 12) -> nn.Module:
    return _drawn(
        timm.create_model(
            "vit_tiny_patch16_224", depth=depth, img_size=size, embed_dim=24, num_heads=2, num_classes=10
        ),
        std=0.25,
    )


def vgg() -> nn.Module:
    layers = [8, "M", 8, "M", 16, "M"]
    features = torchvision.models.vgg.make_layers(layers, batch_norm=True)
    built = torchvision.models.vgg.VGG(features, num_classes=10, init_weights=False)
    built.avgpool = nn.AdaptiveAvgPool2d(1)
    built.classifier = nn.Sequential(nn.Linear(16, 10))
    return _drawn(built)


def _drawn(network: nn.Module, std: float | None = None) -> nn.Module:
    """The network with its parameters drawn here: what its class draws depends on all draws of before."""
    draw, more = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)
    for name, parameter in network.named_parameters():
        if name.rpartition(".")[2] not in ("weight", "bias"):
            # A transformer's class token and places.
            nn.init.normal_(parameter, std=0.02, generator=more)
    for one in network.modules():
        if isinstance(one, nn.Conv2d | nn.Linear):
            fan = one.weight[0].numel()
            nn.init.normal_(one.weight, std=std or (2 / fan) ** 0.5, generator=draw)
            if one.bias is not None:
                nn.init.normal_(one.bias, std=0.1, generator=draw)
        if isinstance(one, nn.BatchNorm2d):
            nn.init.uniform_(one.weight, 0.5, 1.0, generator=draw)
            nn.init.normal_(one.bias, std=0.1, generator=draw)
            nn.init.normal_(one.running_mean, std=0.1, generator=draw)
    return network.eval().double()


def ours(model, keys, clean, goal="untargeted", batch=3, pool=None) -> np.ndarray:
    """The images at the end of our attack, as floats: projected, and not rounded to 8 bits."""
    attack = Attack.model_validate(keys)
    given = ImageBatch(clean, LABELS[: len(clean)], IDS[: len(clean)])
    engine = Engine(batch=batch, layout="contiguous")
    found = perturbations([model], attack, goal, given, key=KEY, engine=engine, pool=pool)
    delta = torch.cat([deltas[-1] for _, deltas, _ in found])
    origin = torch.from_numpy(clean).float()
    return (origin + attack.assembly.budget.projection(origin, attack.budget.levels, None)(delta)).numpy()


def gradient_of(forward, image, labels=LABELS, extra=()) -> tuple[torch.Tensor, ...]:
    """The gradient of the summed cross-entropy of `forward(image)`, and at the tensors `extra`."""
    loss = functional.cross_entropy(forward(image), torch.from_numpy(labels), reduction="sum")
    return torch.autograd.grad(loss, [image, *extra])


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    return (pixels.double() / 255 - MEAN.double()) / STD.double()


def looped(gradient, clean, *, steps, epsilon=16.0, size=None, decay=1.0) -> np.ndarray:
    """The usual loop with momentum: `gradient(image, step)` gives the gradient at pixels that require one."""
    origin = torch.from_numpy(clean).double()
    delta, momentum = torch.zeros_like(origin), torch.zeros_like(origin)
    for step in range(steps):
        found = gradient((origin + delta).requires_grad_(), step).detach()
        scale = found.abs().mean((1, 2, 3), keepdim=True)
        momentum = decay * momentum + found / scale
        delta = delta + (size or epsilon / steps) * momentum.sign()
        delta = (origin + delta.clamp(-epsilon, epsilon)).clamp(0, 255) - origin
    return (origin + delta).numpy()


def torchattacks_images(attack, network, clean, **options) -> np.ndarray:
    """The images of torchattack's class, one by one: its extremes are those of a batch's first image."""
    found = []
    for row, image in enumerate(clean):
        made = attack(
            copy.deepcopy(network).requires_grad_(),
            normalize=lambda x: (x - MEAN.double()) / STD.double(),
            device=torch.device("cpu"),
            **options,
        )
        scaled = torch.from_numpy(image[None]).double() / 255
        found.append(made(scaled, torch.from_numpy(LABELS[row : row + 1])).detach().numpy() * 255)
    return np.concatenate(found)


def unfused(network: nn.Module) -> nn.Module:
    """A copy of a timm transformer that computes its attention maps, so that torchattack's hooks see them."""
    built = copy.deepcopy(network)
    for one in layers_of(built).attention:
        built.get_submodule(one.name).fused_attn = False
    return built


def apart(given: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(given - wanted).max())
