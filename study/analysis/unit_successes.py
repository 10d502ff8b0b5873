"""Counts the successes of one unit from its answers, for displays: a query of rows would take far longer.

The rule for a success is that of `study.analysis.rates.succeeded`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from study.images.selection import Selected
from study.results.schema import TargetAnswers, UnitResult


def successes(result: UnitResult) -> dict[str, tuple[int, int]]:
    """By target with answers, the number of successes and the number of images at the last point of the attack."""
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
            # The finished attack is the last point. Without labels (`top1` is None), no image reaches `wanted`.
            top1 = answer.top1
            reached = np.zeros(len(images), np.bool_) if top1 is None else top1[-len(images) :] == wanted
            hits = int(np.count_nonzero(reached if targeted else ~reached))
        found[answer.target] = (hits, len(images))
    return found


def _named(result: UnitResult, answer: TargetAnswers, image: Selected, said: Sequence[str], *, targeted: bool) -> bool:
    """Whether the answer `said` of a service, which has its own labels, is a success."""
    if targeted:
        return _share(said, result.wanted[answer.target][image.target_label])
    if answer.sentences is not None:
        return not _share(said, result.wanted[answer.target][image.label])
    known = image.clean[answer.target].names
    return known is not None and not _share(said, known)


def _share(names: Collection[str], others: Collection[str]) -> bool:
    return not set(names).isdisjoint(others)
