"""Counts the successes of one unit (one attack run on one shard of images), for displays during a launch.

The counts come from the targets' answers in memory, because a query of rows would take far longer. An answer is a
success by the same rule as in `study.analysis.rates.succeeded`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from study.images.selection import Selected
from study.results.schema import TargetAnswers, UnitResult


def successes(result: UnitResult) -> dict[str, tuple[int, int]]:
    """Return, for each target with answers, the numbers of successes and of images at the attack's last point."""
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
            # The images of the attack's last point come last. If `top1` is None, the target has no labels to compare.
            top1 = answer.top1
            reached = np.zeros(len(images), np.bool_) if top1 is None else top1[-len(images) :] == wanted
            hits = int(np.count_nonzero(reached if targeted else ~reached))
        found[answer.target] = (hits, len(images))
    return found


def _named(result: UnitResult, answer: TargetAnswers, image: Selected, said: Sequence[str], *, targeted: bool) -> bool:
    """Return whether the answer `said` of a remote service to `image` is a success. `said`: the names in the answer."""
    if targeted:
        return _share(said, result.wanted[answer.target][image.target_label])
    if answer.sentences is not None:
        return not _share(said, result.wanted[answer.target][image.label])
    known = image.clean[answer.target].names
    return known is not None and not _share(said, known)


def _share(names: Collection[str], others: Collection[str]) -> bool:
    return not set(names).isdisjoint(others)
