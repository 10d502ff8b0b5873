"""Functions that point rules share: the normalisation of gradients, and conflicts with the rest of an attack."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from study.attacks.component import AttackOutline

if TYPE_CHECKING:
    pass


def not_innermost(name: str, attack: AttackOutline) -> Iterator[str]:
    """Yield a conflict if the rule `name`, which takes all its gradients itself, is not the last of `points`.

    Rules after it would never be used.
    """
    points = list(attack.parts.get("point", ()))
    if name in points[:-1]:
        others = ", ".join(one for one in points if one != name)
        yield f"{name} takes all its gradients itself: put it last in `points`, after {others}"


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
