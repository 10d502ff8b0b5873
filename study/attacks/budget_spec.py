"""The budgets of a spec: how far an attack may move an image, in pixel values 0..255."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from study.attacks.part import Part, PartOf
from study.spec import of_255
from study.spec.frozen import Frozen
from study.spec.shorthand import Shorthand


def _in_pixel_values(given: Any) -> Any:
    """Return 8.0 for the text `8/255`, a length of images scaled to 0..1. Return any other value unchanged."""
    found = of_255.numerator(given)
    return given if found is None else found


_FRACTION = Shorthand(_in_pixel_values, ({"type": "string", "pattern": f"^{of_255.PATTERN}$", "examples": ["8/255"]},))

Match = Literal["image", "mean"]
Positive = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False), _FRACTION]
Length = Annotated[float, Field(gt=0, le=255), _FRACTION]
Lengths = Annotated[tuple[Length, ...], Field(strict=False, min_length=1)]
Norms = Annotated[tuple[Positive, ...], Field(strict=False, min_length=1)]
Measured = Annotated[float, Field(gt=0, allow_inf_nan=False)]
AllMeasured = Annotated[tuple[Measured, ...], Field(strict=False, min_length=1)]

_MOST_STEPS = 10_000

_KEYS = ("epsilon", "l2", "rmsd", "minimal")
"""The budgets that have their own key; other budgets are given by `rule`."""
_WRITTEN = {key: f"budget: {{{key}: <length>}}" for key in _KEYS} | {
    "minimal": "budget: {minimal: {from: <length>, to: <length>, by: <length>}}",
    "none": "budget: none",
}
"""How a spec writes the budgets that are not given by `rule`."""


def evenly_spaced(start: float, to: float, by: float) -> tuple[float, ...]:
    """Return the numbers from `start` up to `to` at the distance `by`.

    Each number is rounded to 1e-6, because three times 0.1 is not exactly 0.3 in floating point.
    """
    count = int((to - start) / by + 1e-9) + 1
    return tuple(round(start + index * by, 6) for index in range(count))


class Range(Frozen):
    """Evenly spaced numbers: `{from: 0.1, to: 100, by: 0.1}` means 0.1, 0.2, 0.3 and so on, up to and including 100."""

    model_config = ConfigDict(serialize_by_alias=True)

    start: Annotated[Positive, Field(alias="from")]
    to: Positive
    by: Positive

    @model_validator(mode="after")
    def _rising(self) -> Range:
        if self.to < self.start or (self.to - self.start) / self.by >= _MOST_STEPS:
            raise PydanticCustomError(
                "budget", "in a range, `to` must not be smaller than `from`, and there must be fewer than 10,000 steps"
            )
        return self

    @property
    def levels(self) -> tuple[float, ...]:
        return evenly_spaced(self.start, self.to, self.by)


class Budget(Frozen):
    """How far an attack may move an image: at most one of `epsilon`, `l2`, `rmsd` and `minimal`, or a `rule`.

    - `epsilon` is an L-infinity norm, `l2` an L2 norm, `rmsd` the root mean square of the changes of all pixel values.
      A list or a range of lengths makes one adversarial image for each length, all from one gradient;
    - `rmsd: matched` gives each image the RMSD that another attack, `to`, reaches on the same sources with the same
      goal. `by: image` takes the RMSD of that attack on the same image, `by: mean` its mean RMSD over all images. Liu
      et al. 2017 compare attacks in this way;
    - `minimal` tries the RMSDs of a range in ascending order, for each image and target, until the image succeeds (Liu
      et al. 2017, section 3.2.2);
    - `rule` is a component that measures perturbations, from a package or from a file of yours, such as
      `{python: "mine.py:Sum"}`. `length` is the largest size in the unit of this measure: a number, a list or a range.
      The attack then needs a `step_size`;
    - without a budget, only the pixel box limits an image.

    Lengths are in pixel values, and the text `8/255` is read as 8. A budget whose largest length is a number of at most
    1 (for `l2`: 10) is refused, because such lengths are usual for images scaled to 0..1. A length that is written as a
    text, such as `0.5/255`, is accepted. The `length` of a `rule` is never refused.

    `gradients` replaces `steps`: the attack takes as many steps as it can with at most `gradients` gradients of one
    image per source model. Gradients at views, at neighbouring points, and in passes before the first step count too.
    """

    epsilon: Length | Lengths | Range | None = None
    l2: Positive | Norms | Range | None = None
    rmsd: Length | Lengths | Range | Literal["matched"] | None = None
    minimal: Range | None = None
    rule: Annotated[Annotated[Part, PartOf("budget", besides=tuple(_WRITTEN.items()))] | None, Field()] = None
    length: Measured | AllMeasured | Range | None = None
    to: str | None = None
    by: Match = "image"
    gradients: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Budget:
        given = [name for name in (*_KEYS, "rule") if getattr(self, name) is not None]
        if len(given) > 1:
            raise PydanticCustomError(
                "budget",
                "a budget has only one of epsilon, l2, rmsd, minimal and rule, but this one has {given}",
                {"given": " and ".join(given)},
            )
        if (self.rule is None) != (self.length is None):
            raise PydanticCustomError("budget", "`rule` and `length` need each other, and one of them is missing")
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
        """The name of the budget's rule: epsilon, l2, rmsd, minimal, none, or the name of a component or a class."""
        if self.rule is not None:
            return self.rule.name or str(self.rule.python).rpartition(":")[2]
        return next((name for name in _KEYS if getattr(self, name) is not None), "none")

    @property
    def part(self) -> Part:
        """The component that measures and projects perturbations, as a spec writes it."""
        return Part(kind="budget", name=self.kind) if self.rule is None else self.rule

    def identity(self) -> dict[str, Any]:
        """Return the part of an attack run's id that describes the budget.

        `gradients` is left out, because the id contains the number of steps that follows from `gradients`.
        """
        found = self.model_dump(mode="json", exclude_defaults=True, exclude={"gradients", "rule"})
        part = self.part
        if part.python is not None or self.rule is not None:
            return {**found, "rule": part.identity()}
        version = part.component().version
        return found if version == 1 else {**found, "version": version}

    @property
    def first_epsilon(self) -> float | None:
        """The first length of an epsilon budget; None for another budget."""
        return self.levels[0] if self.epsilon is not None else None

    @property
    def levels(self) -> tuple[float | None, ...]:
        """The lengths of the budget, in the unit of the spec.

        The result is (None,) if the budget has no length, or if the length depends on the image or the target.
        """
        for given in (self.epsilon, self.l2, self.rmsd, self.length):
            if isinstance(given, Range):
                return given.levels
            if isinstance(given, tuple):
                return given
            if isinstance(given, int | float):
                return (float(given),)
        return (None,)
