"""Catch budgets and step sizes in units of images scaled to 0..1. Pixel values of a spec go from 0 to 255."""

from __future__ import annotations

from collections.abc import Mapping

from study.attacks.recipe import Attack
from study.errors import StudyError
from study.spec.yaml_document import Document, Place

_SMALLEST_BUDGET = 1.0
"""No pixel of an 8-bit image can move by less."""

_SMALLEST_PATH = 0.5
"""If all steps together are shorter, no pixel is rounded to another value."""


def check_units(attacks: Mapping[str, Attack], document: Document) -> None:
    """Refuse attacks that cannot move a pixel.

    Raises StudyError, with the line, for an epsilon or L2 norm below 1 and for sign steps whose sum is below 0.5.
    """
    for name, attack in attacks.items():
        budget = attack.budget
        levels = [level for level in budget.levels if level is not None]
        if levels and budget.kind in ("epsilon", "l2") and max(levels) < _SMALLEST_BUDGET:
            what = "an L2 norm" if budget.kind == "l2" else "an epsilon"
            raise _too_short(f"{what} of {max(levels):g}", max(levels), document, _place(document, name, budget.kind))
        size = attack.step_size
        if attack.step == "sign" and attack.start is None and size is not None and size * attack.steps < _SMALLEST_PATH:
            steps = "step" if attack.steps == 1 else "steps"
            what = f"a step size of {size:g} in {attack.steps:,} {steps}"
            raise _too_short(what, size, document, ("attacks", name, "step_size"))


def _place(document: Document, name: str, kind: str) -> Place:
    """The place of a budget: a key of the attack, or of its `budget`."""
    short = ("attacks", name, kind)
    return short if short in document.origins else ("attacks", name, "budget", kind)


def _too_short(what: str, length: float, document: Document, place: Place) -> StudyError:
    scaled = round(255 * length, 6)
    return StudyError(
        f"{what} moves no pixel: pixel values are 0..255 here, and images are rounded to whole pixel values",
        where=document.where(place),
        accepted="lengths in pixel values: 8/255 of an image scaled to 0..1 is 8",
        todo=f"write {scaled:g} if {length:g} is in units of images scaled to 0..1",
    )
