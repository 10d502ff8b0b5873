"""The number of steps that an attack can take with a given number of gradients."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from study.attacks.recipe import Attack
from study.errors import StudyError

_MOST_STEPS = 100_000


def steps_within(attack: Attack, gradients: int, sources: int) -> int:
    """Return the largest number of steps that takes at most `gradients` gradients of one image per source model.

    `sources` is the number of source models. The result is 0 if one step takes more gradients than allowed, and at most
    100,000. Gradients at views, at neighbouring points, in preparing passes and in a first stage count too. Raises
    StudyError for an attack whose number of gradients does not follow from its steps.
    """
    if attack.external is not None or attack.precomputed is not None or attack.budget.minimal is not None:
        raise StudyError(
            "the number of gradients of this attack does not follow from its steps",
            accepted="attacks with steps; no `external` or `precomputed` attacks, and no searches of the minimal RMSD",
        )
    if not attack.steps:
        raise StudyError("this attack has no steps, so no number of steps follows from its gradients")
    allowed = gradients * sources
    if attack.gradients(1, sources) > allowed:
        return 0
    # The number of gradients rises with the number of steps, so bisection finds the largest number that fits.
    fits, exceeds = 1, 2
    while exceeds <= _MOST_STEPS and attack.gradients(exceeds, sources) <= allowed:
        fits, exceeds = exceeds, 2 * exceeds
    while exceeds - fits > 1:
        middle = (fits + exceeds) // 2
        if attack.gradients(middle, sources) <= allowed:
            fits = middle
        else:
            exceeds = middle
    return min(fits, _MOST_STEPS)


def fitting_steps(name: str, attack: Attack, costs: Sequence[int], sizes: Collection[int], *, where: str) -> list[int]:
    """Return the numbers of steps that fit into `costs`, sorted and without repetition.

    A cost is a number of gradients per source model. For each cost, the largest number of steps that fits is taken; a
    cost below one step is left out. `sizes` are the numbers of source models that the attack runs on. `name` is the
    attack's name, and `where` the place in the spec, for messages. Raises StudyError if no step fits into any cost, if
    the numbers of steps differ between sizes, or if `steps_within` raises it.
    """
    found = set()
    for cost in costs:
        try:
            each = {size: steps_within(attack, cost, size) for size in sorted(sizes)}
        except StudyError as error:
            raise error.located(where) from None
        if len(set(each.values())) > 1:
            told = ", ".join(f"{steps} on {size} model{'s' * (size > 1)}" for size, steps in each.items())
            raise StudyError(
                f"'{name}' can take different numbers of steps with {cost} gradients per source model: {told}",
                where=where,
                todo="write one attack, or one experiment, for each number of source models",
            )
        found |= set(each.values())
    steps = sorted(found - {0})
    if not steps:
        least = max(-(-attack.gradients(1, size) // size) for size in sizes)
        raise StudyError(
            f"one step of '{name}' takes {least} gradients per source model, and the limit is {costs[-1]}",
            where=where,
            accepted=f"{least} or more",
        )
    return steps
