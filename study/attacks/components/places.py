"""Functions that point rules share: the normalisation of gradients, and conflicts with the rest of an attack."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from study.attacks.component import AttackOutline

if TYPE_CHECKING:
    from torch import Tensor


def mean_normalised(gradient: Tensor) -> Tensor:
    """Divide each image's gradient (N, C, H, W) by the mean of its absolute values. A zero gradient stays zero."""
    import torch

    mean = torch.linalg.vector_norm(gradient, 1, dim=(1, 2, 3), keepdim=True) / gradient[0].numel()
    return gradient / torch.where(mean > 0, mean, 1)


def not_innermost(name: str, attack: AttackOutline) -> Iterator[str]:
    """Yield a conflict if the rule `name`, which takes all its gradients itself, is not the last of `points`.

    Rules after it would never be used.
    """
    points = list(attack.parts.get("point", ()))
    if name in points[:-1]:
        yield f"{name} takes all its gradients itself: put it last in `points`, after {', '.join(points[1:])}"


def without_epsilon(name: str, attack: AttackOutline) -> Iterator[str]:
    """Yield a conflict if the budget has no epsilon. The lengths of the rule `name` are multiples of epsilon."""
    if attack.budget.epsilon is None:
        yield f"{name} needs a budget with an epsilon"


def with_adam(name: str, attack: AttackOutline) -> Iterator[str]:
    """Yield a conflict if the step is Adam's, whose length is a learning rate.

    The lengths of the rule `name` are multiples of the length of a step.
    """
    if "adam" in attack.parts.get("step", ()):
        yield f"{name} measures lengths in steps: use a sign or l2 step, not Adam"
