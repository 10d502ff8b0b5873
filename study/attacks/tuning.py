"""Replace numeric parameters of an attack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from study.attacks.recipe import Attack


def with_numbers(attack: Attack, numbers: Mapping[str, float]) -> Attack:
    """Return the attack with the parameters in `numbers` replaced, and without `tune`.

    A key names a parameter of the recipe, such as `momentum`, `smoothing.sigma` or, in a list, `views.ssa.sigma`.
    Raises KeyError for a parameter or a component that the recipe does not have, and pydantic's ValidationError for a
    value that the recipe refuses.
    """
    data = attack.model_dump(mode="json") | {"tune": None}
    if attack.step_size == attack.automatic_step_size:
        data["step_size"] = None
    for key, value in numbers.items():
        first, *inner = key.split(".")
        if isinstance(data.get(first), list):
            name, *inner = inner or [""]
            place = next((at for at, one in enumerate(data[first]) if _names(one) == name), None)
            if place is None:
                raise KeyError(key)
            data[first][place] = {name: _replaced(_parameters(attack, first, name), inner, value, key)}
        elif first in data:
            data[first] = _replaced(data[first], inner, value, key)
        else:
            raise KeyError(key)
    return type(attack).model_validate(data)


def _names(part: Any) -> str:
    return part if isinstance(part, str) else str(next(iter(part)))


def _parameters(attack: Attack, listed: str, name: str) -> dict[str, Any]:
    return dict(next(part.parameters for part in getattr(attack, listed) if part.name == name))


def _replaced(old: Any, inner: list[str], value: float, key: str) -> Any:
    if not inner:
        return value
    if not isinstance(old, dict) or inner[0] not in old:
        raise KeyError(key)
    return {**old, inner[0]: _replaced(old[inner[0]], inner[1:], value, key)}
