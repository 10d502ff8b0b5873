"""Replace numeric parameters of an attack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from study.attacks.part import PYTHON, Part
from study.attacks.recipe import Attack


def with_numbers(attack: Attack, numbers: Mapping[str, float]) -> Attack:
    """Return the attack with the parameters in `numbers` replaced, and without `tune`.

    A key names a parameter of the recipe, such as `momentum`, `smoothing.sigma` or, in a list, `views.ssa.sigma`. A
    component of a user's file in a list is named `python`, as in `views.python.sigma`, or by its file and class, as in
    `views.mine.py:Shuffle.sigma`. If several components of a list have the same name, the first one is meant. Raises
    KeyError for a parameter or a component that the recipe does not have, and pydantic's ValidationError for a value
    that the recipe refuses.
    """
    data = attack.model_dump(mode="json") | {"tune": None}
    if attack.step_size == attack.automatic_step_size:
        data["step_size"] = None
    lists = {name: value for name, value in attack if isinstance(value, tuple) and name in data}
    for key, value in numbers.items():
        first, *inner = key.split(".")
        if inner and first in lists:
            place, inner = _place(lists[first], key)
            data[first][place] = _changed(lists[first][place], data[first][place], inner, value, key)
        elif first in data:
            data[first] = _replaced(data[first], inner, value, key)
        else:
            raise KeyError(key)
    return type(attack).model_validate(data)


def _place(listed: tuple[Any, ...], key: str) -> tuple[int, list[str]]:
    """Return the index of the component of a list that `key` names, and the names in `key` after the component's name.

    Raises KeyError if the list has no such component.
    """
    # The name of a user's file has dots too, so the key cannot simply be split at its dots.
    rest = key.partition(".")[2] + "."
    for place, part in enumerate(listed):
        if isinstance(part, Part):
            for name in (part.name,) if part.python is None else (PYTHON, part.python):
                if rest.startswith(f"{name}."):
                    return place, rest.removeprefix(f"{name}.").split(".")[:-1]
    raise KeyError(key)


def _changed(part: Part, written: Any, inner: list[str], value: float, key: str) -> Any:
    """Return `written`, which is `part` as a spec writes it, with one parameter replaced."""
    if part.python is None:
        return {part.name: _replaced({} if isinstance(written, str) else written[part.name], inner, value, key)}
    if not inner or inner[0] not in part.parameters:
        raise KeyError(key)
    return _replaced(written, inner, value, key)


def _replaced(old: Any, inner: list[str], value: float, key: str) -> Any:
    if not inner:
        return value
    if not isinstance(old, dict) or inner[0] not in old:
        raise KeyError(key)
    return {**old, inner[0]: _replaced(old[inner[0]], inner[1:], value, key)}
