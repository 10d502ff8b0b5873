"""One call of an external attack: models and images in the form that libraries expect, and notes to the user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True)
class ExternalCall:
    """The input of one call of an external attack: the attack, the models, and one batch of images.

    `arguments` are the arguments of the attack. `images` are float32 (N, C, H, W) in 0..1, on `device`. Each of
    `models` is a sequence of two modules that turns such images into logits: the preprocessing, and the network, whose
    modules have their original names. `networks` are the names of the networks in their zoos, such as `resnet50`.
    `labels` (N,) are the labels of the objective: the true labels for an untargeted goal, the target labels for a
    targeted goal. `true` (N,) are the true labels. `epsilon` is the L-infinity budget for images in 0..1, or None.
    `generator` is seeded with `seed`, which belongs to this batch. `notes` collects messages to the user.
    """

    attack: str
    arguments: Mapping[str, Any]
    models: Sequence[nn.Sequential]
    networks: Sequence[str]
    images: Tensor
    labels: Tensor
    true: Tensor
    targeted: bool
    epsilon: float | None
    device: torch.device
    generator: torch.Generator
    seed: int
    notes: list[str] = field(default_factory=list)
