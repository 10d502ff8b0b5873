"""The successes of one unit, counted from its answers: displays count every unit, and a query takes far longer.

The rule is that of `study.analysis.rates.succeeded`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from study.images.selection import Selected
from study.results.schema import TargetAnswers, UnitResult


def successes(result: UnitResult) -> dict[str, tuple[int, int]]:
    """By target that has answered: hits and images at the end of the attack."""
    unit, images = result.unit, result.unit.shard.images
    if not images:
        return {}
    targeted = unit.craft.goal == "targeted"
    wanted = np.array([one.target_label if targeted else one.label for one in images])
    found = {}
    for answer in result.answers:
        if answer.names is not None:
            refused = answer.refused or (False,) * len(answer.names)
            last = slice(-len(images), None)
            hits = sum(
                _named(result, answer, image, said, targeted=targeted) and not no
                for image, said, no in zip(images, answer.names[last], refused[last], strict=True)
            )
        else:
            # The finished attack stands last of its points; a target without labels has no success.
            reached = answer.top5[-len(images) :, :1] == wanted[:, None]
            hits = int(np.count_nonzero(reached if targeted else ~reached))
        found[answer.target] = (hits, len(images))
    return found


def _named(result: UnitResult, answer: TargetAnswers, image: Selected, said: Sequence[str], *, targeted: bool) -> bool:
    """Whether the answer of a service, which has its own labels, is a success."""
    if targeted:
        return _share(said, result.wanted[answer.target][image.target_label])
    if answer.sentences is not None:
        return not _share(said, result.wanted[answer.target][image.label])
    known = image.clean[answer.target].names
    return known is not None and not _share(said, known)


def _share(names: Collection[str], others: Collection[str]) -> bool:
    return not set(names).isdisjoint(others)
