"""Hyper-parameters that a study chooses itself, on images that its tables do not use."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from study.spec.frozen import Frozen

if TYPE_CHECKING:
    from study.attacks.recipe import Attack

Number = Annotated[float, Field(allow_inf_nan=False)] | int
Values = Annotated[tuple[Number, ...], Field(strict=False, min_length=2)]


class Tune(Frozen):
    """Choose numbers of an attack on other images than those of the study.

    `over` names numbers by their keys, as in `smoothing.sigma` or `views.ssa.sigma`, and their candidates; every
    combination is tried. `images` is the number of images; they are drawn from the end of the study's image order. The
    choice has the highest mean black-box success over the attack's experiments; of equal ones the first.
    """

    over: Annotated[dict[str, Values], Field(min_length=1)]
    images: Annotated[int, Field(ge=1)] = 200
    by: Literal["mean black-box success"] = "mean black-box success"

    def choices(self) -> Iterator[dict[str, float]]:
        """Every combination of values, by key."""
        for values in itertools.product(*self.over.values()):
            yield dict(zip(self.over, values, strict=True))


def with_numbers(attack: Attack, numbers: Mapping[str, float]) -> Attack:
    """Return the attack with other numbers, and without `tune`.

    A key names a number of the recipe, such as `momentum`, `smoothing.sigma` or, in a list, `views.ssa.sigma`. Raises
    KeyError for a key that the recipe does not have, and pydantic's ValidationError for a value that it does not accept.
    """
    data = attack.model_dump(mode="json") | {"tune": None}
    if attack.step_size == attack.automatic_step_size:
        data["step_size"] = None
    for key, value in numbers.items():
        first, *inner = key.split(".")
        if isinstance(data.get(first), list):
            name, *inner = inner or [""]
            place = next(at for at, one in enumerate(data[first]) if _names(one) == name)
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
