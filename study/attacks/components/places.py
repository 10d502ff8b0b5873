"""Checks that components share: each yields a sentence if a component conflicts with the rest of the attack."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from study.attacks.component import AttackOutline

if TYPE_CHECKING:
    pass


def not_innermost(name: str, attack: AttackOutline) -> Iterator[str]:
    """Yield a sentence if the point rule `name` is not the last rule of `points`.

    The rule takes all its gradients itself, so rules after it would never be used.
    """
    points = list(attack.parts.get("point", ()))
    if name in points[:-1]:
        others = ", ".join(one for one in points if one != name)
        yield f"{name} takes all its gradients itself: put it last in `points`, after {others}"


def without_epsilon(name: str, attack: AttackOutline) -> Iterator[str]:
    """Yield a sentence if the budget has no epsilon. The lengths of the component `name` are multiples of epsilon."""
    if attack.budget.epsilon is None:
        yield f"{name} needs a budget with an epsilon"


def with_adam(name: str, attack: AttackOutline) -> Iterator[str]:
    """Yield a sentence if the attack's step is Adam.

    The lengths of the component `name` are multiples of the length of a step. Adam's step has no such length, only a
    learning rate.
    """
    if "adam" in attack.parts.get("step", ()):
        yield f"{name} measures lengths in steps: use a sign or l2 step, not Adam"
