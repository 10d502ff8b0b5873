"""What a spec says about geometry: probes, and the directions in which they leave an image. Data alone.

Lengths along a direction are RMSDs in pixel values: a direction has an RMSD of 1, so that going 10 along it moves an
image by an RMSD of 10, as far as the pixel box lets it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from study.attacks.budget_spec import Positive
from study.attacks.recipe import Copies, Goal, Objective, Smoothing
from study.spec.frozen import Frozen

Kind = Literal["gradient-cosine", "regions", "linearity", "intervals"]
Names = Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
EACH = "each"
"""`gradient_of: each`: every model that is looked at along its own gradient."""

KEYS: Mapping[Kind, tuple[str, ...]] = {
    "gradient-cosine": ("goal", "objective", "smoothing"),
    "regions": ("along", "across", "step", "extent", "points"),
    "linearity": ("along", "step", "distances", "labels"),
    "intervals": ("along", "step", "distances"),
}
"""What each kind of probe may say beside `probe`, `models` and `images`."""

_EVERY = ("probe", "models", "images")
_MOST = 10_000
_DIRECTIONS = (
    "random, {random: <number>}, {gradient_of: <model, list of models, or each>}, "
    "or {attack: <name>, sources: [<model>, …]}"
)


class Curve(Frozen):
    """Smoothed gradients (Wu et al. 2019, equation 6): each number of `copies` with each `sigma`.

    Of a pair of models the first one's gradient is smoothed, as in their figure 3a, or, with `of: both`, both.
    """

    copies: Annotated[tuple[Copies, ...], Field(strict=False, min_length=1)] = (20,)
    sigma: Annotated[tuple[Positive, ...], Field(strict=False, min_length=1)] = (15.0,)
    of: Literal["first", "both"] = "first"

    @field_validator("copies", "sigma", mode="before")
    @classmethod
    def _one_is_a_list(cls, given: Any) -> Any:
        return [given] if isinstance(given, int | float) else given


class Distances(Frozen):
    """`{from: -50, to: 50, by: 0.5}`: evenly spaced RMSDs, both ends included; negative ones go the other way."""

    model_config = ConfigDict(serialize_by_alias=True)

    start: Annotated[float, Field(alias="from", ge=-1e4, le=1e4)] = 0.0
    to: Annotated[float, Field(ge=-1e4, le=1e4)]
    by: Positive

    @model_validator(mode="after")
    def _rising(self) -> Distances:
        if self.to <= self.start or (self.to - self.start) / self.by >= _MOST:
            raise PydanticCustomError("parts", "distances rise, in fewer than 10,000 steps, from `from` to `to`")
        return self

    @property
    def levels(self) -> tuple[float, ...]:
        """The distances; rounded to a millionth, so that 0.1 thrice is 0.3."""
        count = int((self.to - self.start) / self.by + 1e-9) + 1
        return tuple(round(self.start + index * self.by, 6) for index in range(count))


class Direction(Frozen):
    """Where a line leaves an image: `random`, a gradient, or the way that an attack went.

    - `random`, or `{random: 1}` for another one: drawn from the normal distribution, keyed by the study's seed, this
      number and the image, so that a probe that looks closer sees the same plane;
    - `{gradient_of: a}`, `{gradient_of: [a, b]}` of an ensemble (Liu et al. 2017, equation 6), `{gradient_of: each}`
      of whichever model is looked at: towards more of what an attack wants, smoothed where `smoothing` says so;
    - `{attack: mi, sources: [a, b]}`: from the image to the adversarial image of one of the spec's attacks, the very
      one that an experiment crafts with the study's first seed.

    With `goal: targeted` both lead to the image's target label.
    """

    random: Annotated[int, Field(ge=0)] | None = None
    gradient_of: Names | None = None
    objective: Objective = "cross-entropy"
    smoothing: Smoothing | None = None
    attack: str | None = None
    sources: Names | None = None
    goal: Goal = "untargeted"

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, given: Any) -> Any:
        return {"random": 0} if given == "random" else given

    @field_validator("gradient_of", "sources", mode="before")
    @classmethod
    def _one_is_a_list(cls, given: Any) -> Any:
        return [given] if isinstance(given, str) else given

    @model_validator(mode="after")
    def _one_kind(self) -> Direction:
        given = [name for name in ("random", "gradient_of", "attack") if getattr(self, name) is not None]
        also = {name: getattr(self, name) != type(self).model_fields[name].default for name in type(self).model_fields}
        wrong = ""
        if len(given) != 1:
            wrong = "a direction is one of three"
        elif (self.attack is None) != (self.sources is None):
            wrong = "`attack` and `sources` belong together, and one is missing"
        elif self.gradient_of is None and (also["objective"] or also["smoothing"]):
            wrong = "only a gradient has an objective and smoothing of its own"
        elif self.random is not None and also["goal"]:
            wrong = "a random direction has no goal"
        elif self.gradient_of and EACH in self.gradient_of and len(self.gradient_of) > 1:
            wrong = "`each` stands alone: it is whichever model is looked at"
        if wrong:
            raise _complaint(wrong, _DIRECTIONS)
        return self

    def models(self, looked_at: str) -> tuple[str, ...]:
        """The models that it takes gradients of where `looked_at` is the model that is looked at."""
        named = self.gradient_of or self.sources or ()
        return (looked_at,) if named == (EACH,) and self.gradient_of else tuple(sorted(set(named)))

    @property
    def named(self) -> tuple[str, ...]:
        """The models that it names."""
        return tuple(one for one in (self.gradient_of or self.sources or ()) if not (self.gradient_of and one == EACH))

    @property
    def title(self) -> str:
        """For people: what an axis is called."""
        aim = ", targeted" if self.goal == "targeted" else ""
        if self.gradient_of:
            whose = "its own model" if self.gradient_of == (EACH,) else " + ".join(self.gradient_of)
            smooth = f", smoothed {self.smoothing.copies} x {self.smoothing.sigma:g}" if self.smoothing else ""
            return f"gradient of {whose}{aim}{smooth}"
        if self.random is not None:
            return f"random direction {self.random}" if self.random else "random direction"
        return f"{self.attack} on {' + '.join(self.sources or ())}{aim}"


class Probe(Frozen):
    """One question about geometry, asked of `models` (all that take gradients, unless given) on `images`.

    `images` is `all` the selected ones, how many of them (the seed decides which), or a list of their ids.

    - `gradient-cosine`: of the angle between two models' gradients (Liu et al. 2017, table 33), and with `smoothing`
      how it grows with the number of copies (Wu et al. 2019, figure 3a);
    - `regions`: the label at every point of a plane, `points` by `points` from -`extent` to `extent` on both axes
      (Liu, figures 3 to 5). What `across` has in common with `along` is taken from it. With `step: sign` the signs of
      both are the axes (Wu, figure 9);
    - `linearity`: the logits of the true label and of the `labels` likeliest ones at `distances` along a line (Liu,
      figure 7);
    - `intervals`: the label at `distances` along a line: where is it wrong (Liu, figure 6)?
    """

    probe: Kind
    models: Names | None = None
    images: Annotated[int, Field(ge=1)] | Names | Literal["all"] = "all"
    goal: Goal = "untargeted"
    objective: Objective = "cross-entropy"
    smoothing: Curve | None = None
    along: Direction | None = None
    across: Direction | None = None
    step: Literal["l2", "sign"] = "l2"
    extent: Annotated[float, Field(gt=0, le=1e4)] = 50.0
    points: Annotated[int, Field(ge=3, le=1001)] = 51
    distances: Distances | None = None
    labels: Annotated[int, Field(ge=1, le=100)] = 10

    @model_validator(mode="before")
    @classmethod
    def _own_keys(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("probe") not in KEYS:
            return given
        kind: Kind = given["probe"]
        foreign = [key for key in given if key in cls.model_fields and key not in (*_EVERY, *KEYS[kind])]
        if foreign:
            raise _complaint(f"a probe of {kind} has no `{foreign[0]}`", ", ".join((*_EVERY, *KEYS[kind])))
        missing = [key for key in ("along", "distances") if key in KEYS[kind] and given.get(key) is None]
        if missing:
            example = "{gradient_of: <model>}" if missing[0] == "along" else "{from: 0, to: 50, by: 1}"
            raise _complaint(f"a probe of {kind} lacks `{missing[0]}`", f"{missing[0]}: {example}")
        if kind == "regions":
            given = {**given, "across": given.get("across") or {"random": 0}}
        return given

    @model_validator(mode="after")
    def _a_plane(self) -> Probe:
        if self.along is not None and self.along == self.across:
            raise _complaint("`across` leads the same way as `along`", "another direction, such as {random: 1}")
        if self.points % 2 == 0:
            raise _complaint("`points` is odd, so that the image itself is one of them", f"{self.points + 1}")
        return self

    @model_serializer(mode="wrap")
    def _only_own_keys(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in write(self).items() if key in (*_EVERY, *KEYS[self.probe])}

    @property
    def directions(self) -> tuple[Direction, ...]:
        """The axes of its line or plane; none of a gradient-cosine."""
        return tuple(one for one in (self.along, self.across) if one is not None)

    @property
    def attacks(self) -> tuple[str, ...]:
        """The attacks that its directions name."""
        return tuple(one.attack for one in self.directions if one.attack is not None)

    @property
    def targeted(self) -> bool:
        """Whether target labels decide what is computed."""
        return self.goal == "targeted" or any(one.goal == "targeted" for one in self.directions)

    @property
    def axis(self) -> tuple[float, ...]:
        """Where the points of a plane lie on both of its axes; the middle one is 0."""
        half = self.points // 2
        return tuple((index - half) * (self.extent / half) for index in range(self.points))

    @property
    def count(self) -> int:
        """Points of its line or plane."""
        if self.distances is not None:
            return len(self.distances.levels)
        return self.points**2 if self.probe == "regions" else 0


def _complaint(what: str, accepted: str) -> PydanticCustomError:
    return PydanticCustomError("parts", "{what}", {"what": what, "accepted": accepted})
