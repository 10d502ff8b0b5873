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
    """Yield a conflict if a rule that takes all its gradients itself has rules after it, which would never be used."""
    points = list(attack.parts.get("point", ()))
    if name in points[:-1]:
        yield f"{name} takes all its gradients itself: put it last in `points`, after {', '.join(points[1:])}"


def without_epsilon(name: str, attack: AttackOutline) -> Iterator[str]:
    """Yield a conflict if a rule's lengths are multiples of epsilon, and the budget has no epsilon."""
    if attack.budget.epsilon is None:
        yield f"{name} needs a budget with an epsilon"


def with_adam(name: str, attack: AttackOutline) -> Iterator[str]:
    """Yield a conflict if a rule's lengths are multiples of the step, and the step is Adam's, with a learning rate."""
    if "adam" in attack.parts.get("step", ()):
        yield f"{name} measures in steps: it needs a sign or l2 step, not Adam"
