"""Lengths that were written for images scaled to 0..1: here pixel values go from 0 to 255."""

from __future__ import annotations

from collections.abc import Mapping

from study.attacks.recipe import Attack
from study.errors import StudyError
from study.spec.yaml_document import Document, Place

_LEAST = 1.0
"""No pixel of an 8-bit image can move by less."""

_HALF = 0.5
"""What all steps together must reach before a pixel is rounded to another value."""


def check_units(attacks: Mapping[str, Attack], document: Document) -> None:
    """Refuse attacks whose lengths move no pixel, with the line.

    Raises StudyError: an epsilon or L2 norm below 1, and sign steps that sum to less than half a pixel value.
    """
    for name, attack in attacks.items():
        budget = attack.budget
        levels = [level for level in budget.levels if level is not None]
        if levels and budget.kind in ("epsilon", "l2") and max(levels) < _LEAST:
            key = "an L2 norm" if budget.kind == "l2" else "an epsilon"
            raise _too_short(f"{key} of {max(levels):g}", max(levels), document, _place(document, name, budget.kind))
        size = attack.step_size
        if attack.step == "sign" and attack.start is None and size is not None and size * attack.steps < _HALF:
            steps = "step" if attack.steps == 1 else "steps"
            what = f"a step size of {size:g} in {attack.steps:,} {steps}"
            raise _too_short(what, size, document, ("attacks", name, "step_size"))


def _place(document: Document, name: str, kind: str) -> Place:
    """Where a budget stands: under `budget`, or as the attack's own key."""
    short = ("attacks", name, kind)
    return short if short in document.origins else ("attacks", name, "budget", kind)


def _too_short(what: str, length: float, document: Document, place: Place) -> StudyError:
    scaled = round(255 * length, 6)
    return StudyError(
        f"{what} moves no pixel: pixel values are 0..255 here, and images are rounded to whole ones",
        where=document.where(place),
        accepted="lengths in pixel values: 8/255 of an image scaled to 0..1 is 8",
        todo=f"write {scaled:g}, if {length:g} was meant for pixel values from 0 to 1",
    )
