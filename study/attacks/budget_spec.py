"""The budgets of a spec: how far an attack may move an image, in pixel values 0..255."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from study.spec.frozen import Frozen
from study.spec.shorthand import Shorthand

_OF_255 = re.compile(r"\s*(\d+(?:\.\d+)?)\s*/\s*255\s*")


def _in_pixel_values(given: Any) -> Any:
    """Turn `8/255`, a length of images scaled to 0..1, into 8 pixel values."""
    found = _OF_255.fullmatch(given) if isinstance(given, str) else None
    return given if found is None else float(found[1])


_FRACTION = Shorthand(_in_pixel_values, ({"type": "string", "pattern": f"^{_OF_255.pattern}$", "examples": ["8/255"]},))

Match = Literal["image", "mean"]
Positive = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False), _FRACTION]
Length = Annotated[float, Field(gt=0, le=255), _FRACTION]
Lengths = Annotated[tuple[Length, ...], Field(strict=False, min_length=1)]
Norms = Annotated[tuple[Positive, ...], Field(strict=False, min_length=1)]

_MOST_STEPS = 10_000


def evenly_spaced(start: float, to: float, by: float) -> tuple[float, ...]:
    """Return the numbers from `start` to `to`, both included; rounded to 1e-6, so that three times 0.1 is 0.3."""
    count = int((to - start) / by + 1e-9) + 1
    return tuple(round(start + index * by, 6) for index in range(count))


class Range(Frozen):
    """Evenly spaced numbers, both ends included: `{from: 0.1, to: 100, by: 0.1}`."""

    model_config = ConfigDict(serialize_by_alias=True)

    start: Annotated[Positive, Field(alias="from")]
    to: Positive
    by: Positive

    @model_validator(mode="after")
    def _rising(self) -> Range:
        if self.to < self.start or (self.to - self.start) / self.by >= _MOST_STEPS:
            raise PydanticCustomError("budget", "a range rises from `from` to `to`, in fewer than 10,000 steps")
        return self

    @property
    def levels(self) -> tuple[float, ...]:
        return evenly_spaced(self.start, self.to, self.by)


class Budget(Frozen):
    """How far an attack may move an image, in pixel values: at most one of `epsilon`, `l2`, `rmsd` and `minimal`.

    - `epsilon` is an L-infinity norm. A list or a range of lengths makes one adversarial image for each length, all
      from one gradient;
    - `rmsd: matched` gives each image the RMSD that the attack `to` reaches on the same sources with the same goal:
      its RMSD on the same image (`by: image`), or its mean RMSD over all images (`by: mean`), as Liu et al. 2017
      compare attacks;
    - `minimal` searches upwards through a range of RMSDs, for each target, until an image succeeds (Liu et al. 2017,
      section 3.2.2);
    - without a budget, only the pixel box limits an image.

    Lengths are in pixel values, and the text `8/255` is read as 8. Numbers of at most 1 (an L2 norm: 10) are refused:
    they are usual for images scaled to 0..1. As a text, `0.5/255`, they are accepted.

    `gradients` sets the number of steps, in place of `steps`: the largest number that takes at most `gradients`
    gradients of one image per source model. Gradients of views, neighbours and preparing passes count.
    """

    epsilon: Length | Lengths | Range | None = None
    l2: Positive | Norms | Range | None = None
    rmsd: Length | Lengths | Range | Literal["matched"] | None = None
    minimal: Range | None = None
    to: str | None = None
    by: Match = "image"
    gradients: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Budget:
        given = [name for name in ("epsilon", "l2", "rmsd", "minimal") if getattr(self, name) is not None]
        if len(given) > 1:
            raise PydanticCustomError(
                "budget",
                "a budget is one of epsilon, l2, rmsd and minimal, and this one has {given}",
                {"given": " and ".join(given)},
            )
        if (self.rmsd == "matched") != (self.to is not None):
            raise PydanticCustomError(
                "budget", "`rmsd: matched` and `to: <attack>` need each other, and one of them is missing"
            )
        levels = self.levels
        if len(set(levels)) < len(levels):
            raise PydanticCustomError("budget", "a budget's lengths must differ from each other")
        return self

    @property
    def matched(self) -> bool:
        return self.rmsd == "matched"

    @property
    def kind(self) -> str:
        """The kind of the budget: epsilon, l2, rmsd, minimal, or none."""
        given = (name for name in ("epsilon", "l2", "rmsd", "minimal") if getattr(self, name) is not None)
        return next(given, "none")

    @property
    def first_epsilon(self) -> float | None:
        """The first length of an epsilon budget; None for another budget."""
        return self.levels[0] if self.epsilon is not None else None

    @property
    def levels(self) -> tuple[float | None, ...]:
        """The lengths of the budget; (None,) without a length, or if it depends on the image or the target."""
        for given in (self.epsilon, self.l2, self.rmsd):
            if isinstance(given, Range):
                return given.levels
            if isinstance(given, tuple):
                return given
            if isinstance(given, int | float):
                return (float(given),)
        return (None,)
