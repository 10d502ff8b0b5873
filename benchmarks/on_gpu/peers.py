"""Other attack loops for comparison: TransferAttack's loop, rewritten from its description, and its own classes.

`TransferLoop` is the loop that users of TransferAttack run. Each method replaces one small step of the loop. Images are
in 0..1, NCHW, in batches of 32 that are loaded one after the other. PyTorch uses its default tf32 for convolutions. The
parameters of the network are not frozen, and `autograd.grad` gives the gradient of the perturbation. No line is copied.

`classes` runs TransferAttack's own classes instead, from the folder of a checkout. They attack the network of this
benchmark, and not a model that TransferAttack loads.
"""

from __future__ import annotations

import copy
import importlib
import math
import sys
from pathlib import Path
from typing import Any

import engine
import torch
from engine import EPSILON, NEIGHBOURS, Bench, Side
from torch import Tensor, nn
from torch.nn import functional

ATTACKS = ("MI", "DI", "TI", "SI", "SG", "VMI", "Admix", "SGM")
CLASSES = {
    "MI": ("gradient", "mifgsm", "MIFGSM"),
    "DI": ("input_transformation", "dim", "DIM"),
    "TI": ("input_transformation", "tim", "TIM"),
    "SI": ("input_transformation", "sim", "SIM"),
    "VMI": ("gradient", "vmifgsm", "VMIFGSM"),
    "Admix": ("input_transformation", "admix", "Admix"),
}
"""The package, the module and the class of each attack in TransferAttack."""
_SCALES, _MIXED, _SHARE, _GAMMA, _RESIZED = 5, 3, 0.2, 0.5, 1.1
_RADIUS, _BETA = 7, 1.5


class TransferLoop:
    """An attack loop with momentum and sign steps, and with the views, gradients or kernels of one method."""

    def __init__(self, network: nn.Module, attack: str, steps: int) -> None:
        self._network, self._attack, self._steps = network, attack, steps
        self._size, self._limit = EPSILON / 255 / steps, EPSILON / 255
        self._kernel: Tensor | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return adversarial images in 0..1."""
        delta = torch.zeros_like(images)
        momentum, tuned = torch.zeros_like(images), torch.zeros_like(images)
        for _ in range(self._steps):
            delta = delta.detach().requires_grad_(True)
            gradient = self._gradient(images, delta, labels)
            if self._attack == "VMI":
                around = self._around(images, delta, labels)
                gradient, tuned = gradient + tuned, around - gradient
            if self._attack == "TI":
                gradient = self._smooth(gradient)
            momentum = momentum + gradient / gradient.abs().mean((1, 2, 3), keepdim=True)
            moved = (delta.detach() + self._size * momentum.sign()).clamp(-self._limit, self._limit)
            delta = (images + moved).clamp(0, 1) - images
        return images + delta.detach()

    def _gradient(self, images: Tensor, delta: Tensor, labels: Tensor) -> Tensor:
        if self._attack == "SG":
            total = torch.zeros_like(images)
            for _ in range(NEIGHBOURS):
                noise = torch.randn_like(images) * (15 / 255)
                total = total + self._of(images + delta + noise, delta, labels)
            return total / NEIGHBOURS
        seen = self._views(images + delta)
        return self._of(seen, delta, labels.repeat(len(seen) // len(labels)))

    def _of(self, seen: Tensor, delta: Tensor, labels: Tensor) -> Tensor:
        loss = functional.cross_entropy(self._network(seen), labels)
        (found,) = torch.autograd.grad(loss, delta)
        return found

    def _views(self, image: Tensor) -> Tensor:
        if self._attack == "DI":
            return self._diverse(image)
        if self._attack == "SI":
            return torch.cat([image / 2**power for power in range(_SCALES)])
        if self._attack == "Admix":
            order = [torch.randperm(len(image), device=image.device) for _ in range(_MIXED)]
            mixed = [image + _SHARE * image[one].detach() for one in order]
            return torch.cat([one / 2**power for power in range(_SCALES) for one in mixed])
        return image

    def _diverse(self, image: Tensor) -> Tensor:
        """Return the batch unchanged with probability 1/2; otherwise return it resized, padded, and resized back.

        One random draw decides for the whole batch.
        """
        if torch.rand(1).item() < 0.5:
            return image
        side = image.shape[-1]
        frame = int(side * _RESIZED)
        inner = int(torch.randint(side, frame, (1,)).item())
        resized = functional.interpolate(image, (inner, inner), mode="bilinear", align_corners=False)
        top, left = (int(torch.randint(0, frame - inner, (1,)).item()) for _ in range(2))
        padded = functional.pad(resized, (left, frame - inner - left, top, frame - inner - top))
        return functional.interpolate(padded, (side, side), mode="bilinear", align_corners=False)

    def _around(self, images: Tensor, delta: Tensor, labels: Tensor) -> Tensor:
        """Return the mean gradient at random images near the adversarial images, computed one pass after another."""
        total = torch.zeros_like(images)
        for _ in range(NEIGHBOURS):
            noise = torch.empty_like(images).uniform_(-_BETA * self._limit, _BETA * self._limit)
            total = total + self._of(images + delta + noise, delta, labels)
        return total / NEIGHBOURS

    def _smooth(self, gradient: Tensor) -> Tensor:
        if self._kernel is None:
            places = torch.arange(-_RADIUS, _RADIUS + 1, device=gradient.device)
            line = torch.exp(-places.square() / (2 * (_RADIUS / math.sqrt(3)) ** 2))
            square = line[:, None] * line
            self._kernel = (square / square.sum()).expand(gradient.shape[1], 1, -1, -1).contiguous()
        return functional.conv2d(gradient, self._kernel, padding="same", groups=gradient.shape[1])


def users_network(bench: Bench, attack: str) -> nn.Module:
    """Return the network as a user of a library has it: contiguous, nothing folded, parameters not frozen.

    For SGM, the gradient behind each ReLU within a residual branch is multiplied by the factor of SGM.
    """
    classifier = bench.model(ours=False)
    network = copy.deepcopy(classifier.network).requires_grad_(True)
    if attack == "SGM":
        for name, module in network.named_modules():
            if isinstance(module, nn.ReLU) and "." in name:
                module.inplace = False
                module.register_forward_hook(_weakened)
    return engine.Normalised(network, classifier.mean, classifier.std).eval()


def _weakened(_module: nn.Module, _given: object, output: Tensor) -> None:
    if output.requires_grad:
        output.register_hook(lambda gradient: _GAMMA * gradient)  # type: ignore[no-untyped-call]


def transfer_loop(bench: Bench, attack: str, batch: int) -> Side:
    """Return the side that runs the loop on the bench's images, in batches of `batch` images from the host."""
    network = users_network(bench, attack)
    images, labels = (one.cpu() for one in bench.scaled())

    def run(steps: int) -> None:
        engine.as_shipped(bench.threads)
        made = TransferLoop(network, attack, steps)
        for first in range(0, len(images), batch):
            part = slice(first, first + batch)
            made(images[part].to(bench.device), labels[part].to(bench.device)).cpu()

    return run


def adversarial(bench: Bench, attack: str, batch: int, steps: int) -> Tensor:
    """Return the adversarial images that the loop makes of the bench's images: `uint8` (N, C, H, W) on the host."""
    engine.as_shipped(bench.threads)
    made = TransferLoop(users_network(bench, attack), attack, steps)
    images, labels = (one.cpu() for one in bench.scaled())
    parts = [
        made(images[first : first + batch].to(bench.device), labels[first : first + batch].to(bench.device)).cpu()
        for first in range(0, len(images), batch)
    ]
    return (torch.cat(parts) * 255).round().clamp(0, 255).to(torch.uint8)


def classes(bench: Bench, attack: str, batch: int, folder: Path) -> Side:
    """Return the same side as `transfer_loop`, but with TransferAttack's own class from the checkout in `folder`."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    where, module, name = CLASSES[attack]
    found = getattr(importlib.import_module(f"transferattack.{where}.{module}"), name)
    network = users_network(bench, attack)
    device = torch.device(bench.device)

    class OnOurNetwork(found):  # type: ignore[misc,valid-type]
        def load_model(self, model_name: Any) -> nn.Module:
            return network

    images, labels = (one.cpu() for one in bench.scaled())

    def run(steps: int) -> None:
        engine.as_shipped(bench.threads)
        made = OnOurNetwork("resnet50", epsilon=EPSILON / 255, epoch=steps, device=device)
        for first in range(0, len(images), batch):
            part = slice(first, first + batch)
            delta = made(images[part].to(device), labels[part].to(device))
            (images[part] + delta.cpu()).clamp(0, 1)

    return run


def of_libraries(bench: Bench, attack: str) -> tuple[dict[str, Side], dict[str, str]]:
    """Return the sides of the libraries that have the attack, and reasons why libraries are missing, by library."""
    tables: dict[str, dict[str, Any]] = {"torchattacks": engine.TORCHATTACKS, "foolbox": engine.FOOLBOX}
    found: dict[str, Side] = {}
    missing: dict[str, str] = {}
    for name, table in tables.items():
        if attack not in table:
            continue
        try:
            importlib.import_module(name)
            found[name] = getattr(bench, name)(attack)
        except ImportError as error:
            missing[name] = f"not installed: {error.name}"
    return found, missing
