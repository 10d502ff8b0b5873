"""Small smooth networks in double precision, and an ensemble rule asked at one place of an attack on them."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from study.attacks import Attack
from study.attacks.fusion import Fusion
from study.attacks.gradient import BatchGradients
from study.attacks.kinds import StepDraws
from study.attacks.passes import groups
from study.attacks.views import Views
from study.reproducibility.rng import Streams, of_all_images

KEY = ("ensembles",)
IDS = ("a", "b", "c", "d")
LABELS = torch.tensor([1, 4, 0, 2])
EPSILON, SIZE = 16.0, 1.6
STEPS = 10


class Smooth(torch.nn.Module):
    """Pixels (N, 3, 8, 8) -> logits (N, 6), double; its gradients have no kinks, at which rounding would decide."""

    def __init__(self, seed: int, scale: float = 3.0) -> None:
        super().__init__()
        drawn = torch.Generator().manual_seed(seed)
        self.first = torch.randn(8, 3, 3, 3, generator=drawn, dtype=torch.float64) / 3
        self.second = scale * torch.randn(8 * 16, 6, generator=drawn, dtype=torch.float64) / 11

    def forward(self, pixels):
        seen = functional.conv2d(pixels.double() / 64 - 2, self.first, stride=2, padding=1).tanh()
        return seen.flatten(1) @ self.second


def networks(count: int) -> list[Smooth]:
    return [Smooth(seed) for seed in range(count)]


def clean() -> torch.Tensor:
    """Images (4, 3, 8, 8) with pixels near the ends of 0..255 too."""
    drawn = np.random.default_rng(5).integers(0, 256, (4, 3, 8, 8))
    drawn[0] = drawn[0] // 16
    return torch.from_numpy(drawn).double()


def asked(models, fusion, *, step=0, delta=None, state=None, sample=0, **keys):
    """The gradient that the rule `fusion` gives at the clean images, or at `delta` from them, in one step."""
    goal = keys.pop("goal", "untargeted")
    attack = Attack.model_validate(
        {"step": "sign", "steps": STEPS, "step_size": SIZE, "epsilon": EPSILON, "fusion": fusion, **keys}
    )
    origin = clean()
    streams = Streams(KEY, IDS)
    views = Views(attack.assembly.views, streams, LABELS.numpy(), None, origin=origin, steps=STEPS, epsilon=EPSILON)
    gradients = BatchGradients(attack.assembly, goal, LABELS, views, streams, origin, 64, common=of_all_images(KEY))
    names = [f"m{number}" for number in range(len(models))]
    (group,) = groups(models, attack.weights_of(names), separate=False)
    project = attack.assembly.budget.projection(origin, attack.budget.levels, None)
    rule = Fusion(group, gradients, step, STEPS, SIZE, EPSILON, project, {} if state is None else state)
    return rule(origin if delta is None else origin + delta, sample)


def words(name: str, count: int, step: int = 0, sample: int = 0) -> list[int]:
    """The numbers that the rule `name` draws for all images at one step."""
    return StepDraws(of_all_images(KEY), name, "cpu", step, sample).integers(count)[0].tolist()


def loss(logits, label, goal="untargeted"):
    """The loss that an attack maximises, of the logits (classes,) of one image."""
    found = -logits.log_softmax(0)[label]
    return found if goal == "untargeted" else -found


def naive_gradient(of, image):
    """The gradient of a function of one image (C, H, W)."""
    image = image.detach().clone().requires_grad_(True)
    (found,) = torch.autograd.grad(of(image), image)
    return found


def kept(image, origin):
    """One image within the budget and 0..255, pixel by pixel."""
    return torch.minimum(torch.maximum(image, origin - EPSILON), origin + EPSILON).clamp(0, 255)


def moved(seed=3):
    """A perturbation within the budget that no step of the tests leaves unchanged."""
    drawn = torch.Generator().manual_seed(seed)
    origin = clean()
    away = 20 * torch.rand(origin.shape, generator=drawn, dtype=torch.float64) - 10
    return torch.stack([kept(one + two, one) - one for one, two in zip(origin, away, strict=True)])
