"""How far an image may move, as data: budgets in pixel values, and ranges of them."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from study.spec.frozen import Frozen

_OF_255 = re.compile(r"\s*(\d+(?:\.\d+)?)\s*/\s*255\s*")


def _in_pixel_values(given: Any) -> Any:
    """`8/255`, as lengths of images scaled to 0..1 are written, is 8 in pixel values."""
    found = _OF_255.fullmatch(given) if isinstance(given, str) else None
    return given if found is None else float(found[1])


Match = Literal["image", "mean"]
Positive = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False), BeforeValidator(_in_pixel_values)]
Length = Annotated[float, Field(gt=0, le=255), BeforeValidator(_in_pixel_values)]
Lengths = Annotated[tuple[Length, ...], Field(strict=False, min_length=1)]
Norms = Annotated[tuple[Positive, ...], Field(strict=False, min_length=1)]

_MOST = 10_000


class Range(Frozen):
    """`{from: 0.1, to: 100, by: 0.1}`: evenly spaced, both ends included."""

    model_config = ConfigDict(serialize_by_alias=True)

    start: Annotated[float, Field(alias="from", gt=0, le=1e6)]
    to: Positive
    by: Positive

    @model_validator(mode="after")
    def _rising(self) -> Range:
        if self.to < self.start or (self.to - self.start) / self.by >= _MOST:
            raise PydanticCustomError("budget", "a range rises, in fewer than 10,000 steps, from `from` to `to`")
        return self

    @property
    def levels(self) -> tuple[float, ...]:
        """Its values; rounded to a millionth, so that 0.1 thrice is 0.3."""
        count = int((self.to - self.start) / self.by + 1e-9) + 1
        return tuple(round(self.start + index * self.by, 6) for index in range(count))


class Budget(Frozen):
    """How far an image may move: at most one of `epsilon` (L-infinity), `l2`, `rmsd` and `minimal`.

    Without any, only the pixel box binds. A list of lengths makes one adversarial image for each, from one gradient.
    `rmsd: matched` takes the RMSD of the attack `to` on the same sources and goal: image by image (`by: image`), or its
    mean over all images for every image (`by: mean`), as Liu et al. 2017 compare attacks. `minimal` goes up a range
    of RMSDs and stops, target by target, at the first that succeeds (Liu et al. 2017, section 3.2.2).
    """

    epsilon: Length | Lengths | Range | None = None
    l2: Positive | Norms | Range | None = None
    rmsd: Length | Lengths | Range | Literal["matched"] | None = None
    minimal: Range | None = None
    to: str | None = None
    by: Match = "image"

    @model_validator(mode="after")
    def _one_kind(self) -> Budget:
        given = [name for name in ("epsilon", "l2", "rmsd", "minimal") if getattr(self, name) is not None]
        if len(given) > 1:
            raise PydanticCustomError(
                "budget",
                "a budget is epsilon, l2, rmsd or minimal, and this has {given}",
                {"given": " and ".join(given)},
            )
        if (self.rmsd == "matched") != (self.to is not None):
            raise PydanticCustomError(
                "budget", "`rmsd: matched` and `to: <an attack>` belong together, and one is missing"
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
        """Which kind of budget it is: epsilon, l2, rmsd, minimal, or none."""
        given = (name for name in ("epsilon", "l2", "rmsd", "minimal") if getattr(self, name) is not None)
        return next(given, "none")

    @property
    def levels(self) -> tuple[float | None, ...]:
        """The lengths that are asked for; (None,) where there is none, or where it depends on image or target."""
        for given in (self.epsilon, self.l2, self.rmsd):
            if isinstance(given, Range):
                return given.levels
            if isinstance(given, tuple):
                return given
            if isinstance(given, int | float):
                return (float(given),)
        return (None,)
