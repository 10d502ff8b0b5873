"""Adversarial training (Madry et al. 2018, arXiv:1706.06083): training on adversarial images that PGD makes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

_OVERSHOOT = 2.5
"""The sum of all step sizes divided by epsilon. The value is that of Madry et al.'s public models."""


@dataclass(frozen=True)
class PGD:
    """Projected gradient descent from a random start, in `steps` steps.

    `epsilon` is the largest L-infinity distance from the clean image, in pixel values 0..255.
    """

    epsilon: float
    steps: int = 5


def worst(network: nn.Module, images: Tensor, labels: Tensor, attack: PGD, seed: int) -> Tensor:
    """Maximise the cross-entropy by PGD, and return the images after the last step: float (N, C, H, W) in 0..1.

    `images` have the same format, and `labels` (N,) are their true labels. `seed` determines the random start. The
    `grad` of each parameter of `network` stays unchanged.
    """
    epsilon = attack.epsilon / 255
    size = _OVERSHOOT * epsilon / attack.steps
    low, high = (images - epsilon).clamp_(min=0), (images + epsilon).clamp_(max=1)
    drawn = torch.rand(images.shape, generator=torch.Generator().manual_seed(seed))
    found = torch.clamp(images + epsilon * (2 * drawn - 1), low, high)
    for _ in range(attack.steps):
        found.requires_grad_()
        loss = functional.cross_entropy(network(found), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, found)
        found = torch.clamp(found.detach() + size * gradient.sign(), low, high)
    return found
