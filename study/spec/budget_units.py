"""Refuse budgets and step sizes that were probably meant for images scaled to 0..1.

In a spec, pixel values are 0..255.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from study.attacks.budget_spec import Budget
from study.attacks.recipe import Attack
from study.errors import StudyError
from study.spec.yaml_document import Document, Place

_DOUBTFUL = {"epsilon": 1.0, "rmsd": 1.0, "minimal": 1.0, "l2": 10.0}
"""For each kind of budget, the largest length that counts as doubtful, in pixel values.

For comparison: if 100 values change by 1, the change has an L2 norm of 10.
"""

_NAMES = {"epsilon": "an epsilon", "rmsd": "an RMSD", "minimal": "a search up to an RMSD", "l2": "an L2 norm"}

_SMALLEST_PATH = 0.5
"""If all steps together are shorter than this, in pixel values, the rounding to 8 bits removes them."""


def check_units(attacks: Mapping[str, Attack], document: Document) -> None:
    """Check every attack of a spec as `check_attack` does. `document` is the YAML document of the spec."""
    for name, attack in attacks.items():
        check_attack(attack, document, ("attacks", name))


def check_attack(attack: Attack, document: Document, place: Place) -> None:
    """Refuse lengths so small that they were probably meant for images scaled to 0..1.

    `place` is the place of the attack in the document. Raises StudyError, with the line, if the largest budget of the
    attack is at most 1 (at most 10 for an L2 norm), or if all its sign steps together are shorter than 0.5.

    A length written as a text such as `0.5/255` is never refused, because its unit is clear. The steps are not checked
    if the attack has a `start`, or if the step size follows from the budget.
    """
    kind = attack.budget.kind
    longest = _doubtful_budget(attack)
    there = _place(document, place, kind)
    if longest is not None and not _says_its_unit(_at(document, there)):
        moves = "moves no pixel" if kind in ("epsilon", "l2") and longest < 1 else "is probably not what you mean"
        what = f"{_NAMES[kind]} of {_digits(longest)} {moves}"
        raise _too_short(what, longest, _DOUBTFUL[kind], document, there)
    size, there = _doubtful_step(attack), (*place, "step_size")
    if size is not None and not _says_its_unit(_at(document, there)):
        steps = "step" if attack.steps == 1 else "steps"
        what = f"a step size of {_digits(size)} in {attack.steps:,} {steps} moves no pixel"
        raise _too_short(what, size, _SMALLEST_PATH / attack.steps, document, there)
    if attack.first is not None and isinstance(_at(document, (*place, "first")), dict):
        check_attack(attack.first, document, (*place, "first"))


def with_units(attack: Attack, plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `plain` data of an attack, with texts such as `0.5/255` for lengths that `check_attack` would refuse.

    If an accepted spec is written to a file in this form, it is accepted again when the file is read.
    """
    written = dict(plain)
    if _doubtful_budget(attack) is not None:
        kind = attack.budget.kind
        written["budget"] = {**plain["budget"], kind: _of_255(plain["budget"][kind])}
    if _doubtful_step(attack) is not None:
        written["step_size"] = _of_255(plain["step_size"])
    if attack.first is not None:
        written["first"] = with_units(attack.first, plain["first"])
    return written


def _doubtful_budget(attack: Attack) -> float | None:
    """Return the largest length of the attack's budget if it is so small that it is doubtful, else None.

    A doubtful length was probably meant for images scaled to 0..1. Return None for a budget with a `rule`, because
    such a rule has its own unit.
    """
    if attack.budget.rule is not None:
        return None
    longest = max(_lengths(attack.budget), default=None)
    return longest if longest is not None and longest <= _DOUBTFUL[attack.budget.kind] else None


def _doubtful_step(attack: Attack) -> float | None:
    """Return the step size of the attack if all its sign steps together move no pixel, else None.

    Return None also for an attack with a `start`, and if the step size follows from the budget.
    """
    size = attack.step_size
    if attack.step != "sign" or attack.start is not None or size is None or size == attack.automatic_step_size:
        return None
    return size if size * attack.steps < _SMALLEST_PATH else None


def _of_255(given: Any) -> Any:
    """Return the lengths in `given` as texts with their unit, such as `8/255`.

    Reading such a text gives the same number.
    """
    if isinstance(given, dict):
        return {key: _of_255(one) for key, one in given.items()}
    if isinstance(given, list | tuple):
        return [_of_255(one) for one in given]
    return f"{Decimal(repr(float(given))):f}/255"


def _lengths(budget: Budget) -> Iterator[float]:
    levels = budget.levels if budget.minimal is None else budget.minimal.levels
    return (level for level in levels if level is not None)


def _place(document: Document, attack: Place, kind: str) -> Place:
    """Return the place of a budget in the document. Its key is `kind`, in the attack itself or in the key `budget`."""
    short = (*attack, kind)
    return (*attack, "budget", kind) if _at(document, short) is None else short


def _at(document: Document, place: Place) -> Any:
    """Return the value that the user wrote at a place.

    Return None if the user wrote nothing there, for example because the value comes from a preset.
    """
    data = document.data
    for part in place:
        data = data.get(part) if isinstance(data, dict) else None
    return data


def _says_its_unit(written: Any) -> bool:
    """Whether a length is written as a text, such as a fraction of 255.

    In a list or range of lengths, one text is enough.
    """
    if isinstance(written, dict):
        return any(map(_says_its_unit, written.values()))
    if isinstance(written, list | tuple):
        return any(map(_says_its_unit, written))
    return isinstance(written, str)


def _too_short(what: str, length: float, doubtful: float, document: Document, place: Place) -> StudyError:
    """Return the error for a length that is too short. Numbers up to `doubtful` are refused at this place."""
    scaled = 255 * length
    near = round(scaled)
    meant = _digits(scaled, 4) if near == 0 or abs(scaled - near) >= 0.05 else f"{near}"
    if float(meant) <= doubtful:
        # As a number, this length would be refused too.
        meant = f"{meant}/255"
    given = _digits(length)
    return StudyError(
        f"{what}: lengths are in pixel values of 0..255 here, and images are rounded to whole pixel values",
        where=document.where(place),
        accepted="lengths in pixel values, such as 8 (which may also be written as 8/255)",
        todo=f"write {meant} if {given} is for images scaled to 0..1, or {given}/255 if it is in pixel values",
    )


def _digits(number: float, most: int = 6) -> str:
    """Return a number with at most `most` significant digits and without an exponent, such as 0.00001."""
    return f"{Decimal(f'{number:.{most}g}'):f}"
