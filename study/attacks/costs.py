"""How far an attack gets with a number of gradients."""

from __future__ import annotations

from study.attacks.recipe import Attack
from study.errors import StudyError

_MOST_STEPS = 100_000


def steps_within(attack: Attack, gradients: int, sources: int) -> int:
    """Return the most steps that take at most `gradients` gradients of one image per source model; 0 if none does.

    All gradients count: those of views, neighbours, preparing passes and a first stage. Raises StudyError for an attack
    whose number of gradients does not follow from its steps.
    """
    if attack.external is not None or attack.precomputed is not None or attack.budget.minimal is not None:
        raise StudyError(
            "the number of gradients of this attack does not follow from its steps",
            accepted="attacks of steps; no external or precomputed one, and no search of the minimal RMSD",
        )
    if not attack.steps:
        raise StudyError("this attack has no steps, and takes no gradients")
    allowed = gradients * sources
    if attack.gradients(1, sources) > allowed:
        return 0
    # The number of gradients rises with the steps: halve the range that holds the last number of steps that fits.
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
