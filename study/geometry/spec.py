"""Geometry probes in a spec: cosines between gradients, and predictions on lines and planes through an image.

The axis of a line has a direction with an RMSD of 1 pixel value. So at a distance of 10 along the axis, the RMSD
between the point and the image is 10. It is less than 10 if pixel values are clipped to 0..255.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from pydantic_core import PydanticCustomError

from study.attacks.budget_spec import Positive, evenly_spaced
from study.attacks.recipe import Copies, Goal, Smoothing
from study.spec.frozen import Frozen, rejected
from study.spec.shorthand import Names, OneOrMore, also

Kind = Literal["gradient-cosine", "regions", "linearity", "intervals"]
Ids = Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
EACH = "each"
"""The value of `gradient_of` that means the gradient of the probed model itself."""

KEYS: Mapping[Kind, tuple[str, ...]] = {
    "gradient-cosine": ("goal", "objective", "smoothing"),
    "regions": ("along", "across", "step", "extent", "points"),
    "linearity": ("along", "step", "distances", "labels"),
    "intervals": ("along", "step", "distances"),
}
"""The keys of each kind of probe, in addition to `probe`, `models` and `images`."""

_EVERY = ("probe", "models", "images")
_MOST_STEPS = 10_000
_DIRECTIONS = (
    "random, {random: <number>}, {gradient_of: <model, list of models, or each>}, "
    "or {attack: <name>, sources: [<model>, …]}"
)

Loss = Literal["cross-entropy", "log(1-p)", "logit", "margin"]
"""The objectives that a probe accepts."""


class Curve(Frozen):
    """Smoothed gradients (Wu et al. 2019, equation 6): means over copies of the image with Gaussian noise.

    Each number of `copies` is combined with each standard deviation `sigma` of the noise, in pixel values. `of: first`
    smooths only the gradient of the first model of a pair, as in figure 3a of Wu et al. `of: both` smooths the
    gradients of both models.
    """

    copies: OneOrMore[Copies] = (20,)
    sigma: OneOrMore[Positive] = (15.0,)
    of: Literal["first", "both"] = "first"


class LineRange(Frozen):
    """Evenly spaced distances (RMSDs in pixel values), such as `{from: -50, to: 50, by: 0.5}`.

    `from` is included, and `to` also if a step reaches it exactly. A negative distance means a point on the other
    side of the image, opposite to the direction.
    """

    model_config = ConfigDict(serialize_by_alias=True)

    start: Annotated[float, Field(alias="from", ge=-1e4, le=1e4)] = 0.0
    to: Annotated[float, Field(ge=-1e4, le=1e4)]
    by: Positive

    @model_validator(mode="after")
    def _rising(self) -> LineRange:
        if self.to <= self.start or (self.to - self.start) / self.by >= _MOST_STEPS:
            raise PydanticCustomError("parts", "distances must rise from `from` to `to`, in fewer than 10,000 steps")
        return self

    @property
    def levels(self) -> tuple[float, ...]:
        return evenly_spaced(self.start, self.to, self.by)


class Direction(Frozen):
    """The direction of a line or plane through an image: random, a gradient, or the perturbation of an attack.

    - `random`: a random direction with normally distributed values. `{random: 1}` is another one. The study's seed,
      this number and the image determine the direction, so several probes can use the same plane.
    - `{gradient_of: a}`: the gradient of the loss of model a. `objective` is this loss. If `smoothing` is given, the
      gradient is smoothed. `{gradient_of: [a, b]}` uses the loss of an ensemble (Liu et al. 2017, equation 6).
      `{gradient_of: each}` uses the loss of the probed model itself.
    - `{attack: mi, sources: [a, b]}`: the direction from the image to its adversarial image. The adversarial image is
      the same as in an experiment with the study's first seed.

    With `goal: targeted`, gradients and attacks lead to the image's target label.
    """

    model_config = ConfigDict(json_schema_extra=also({"const": "random"}))

    random: Annotated[int, Field(ge=0)] | None = None
    gradient_of: Names | None = None
    objective: Loss = "cross-entropy"
    smoothing: Smoothing | None = None
    attack: str | None = None
    sources: Names | None = None
    goal: Goal = "untargeted"

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, given: Any) -> Any:
        return {"random": 0} if given == "random" else given

    @model_validator(mode="after")
    def _one_kind(self) -> Direction:
        given = [name for name in ("random", "gradient_of", "attack") if getattr(self, name) is not None]
        fields = type(self).model_fields
        changed = {name: getattr(self, name) != field.default for name, field in fields.items()}
        wrong = ""
        if len(given) != 1:
            wrong = "a direction has exactly one of `random`, `gradient_of` and `attack`"
        elif (self.attack is None) != (self.sources is None):
            wrong = "`attack` and `sources` need each other, and one of them is missing"
        elif self.gradient_of is None and (changed["objective"] or changed["smoothing"]):
            wrong = "`objective` and `smoothing` need `gradient_of`"
        elif self.random is not None and changed["goal"]:
            wrong = "a random direction has no goal"
        elif self.gradient_of and EACH in self.gradient_of and len(self.gradient_of) > 1:
            wrong = "`each` is the probed model itself: it cannot be in a list with other models"
        if wrong:
            raise rejected(wrong, _DIRECTIONS)
        return self

    def models(self, probed: str) -> tuple[str, ...]:
        """Return the models whose gradients define the direction, in a probe of model `probed`; empty if random."""
        named = self.gradient_of or self.sources or ()
        return (probed,) if named == (EACH,) and self.gradient_of else tuple(sorted(set(named)))

    @property
    def named(self) -> tuple[str, ...]:
        """The models that the spec names in this direction, without `each`."""
        return tuple(one for one in (self.gradient_of or self.sources or ()) if not (self.gradient_of and one == EACH))

    @property
    def title(self) -> str:
        """The name of the direction in tables, figures and messages."""
        aim = ", targeted" if self.goal == "targeted" else ""
        if self.gradient_of:
            whose = "the model itself" if self.gradient_of == (EACH,) else " + ".join(self.gradient_of)
            smooth = f", smoothed {self.smoothing.copies} x {self.smoothing.sigma:g}" if self.smoothing else ""
            return f"gradient of {whose}{aim}{smooth}"
        if self.random is not None:
            return f"random direction {self.random}" if self.random else "random direction"
        return f"{self.attack} on {' + '.join(self.sources or ())}{aim}"


class Probe(Frozen):
    """A geometry probe: it measures gradients or predictions of models around images.

    `models` are the probed models. If absent, these are all models that have gradients and also predict as targets.
    `images` is `all` selected images, a list of their ids, or a number of images, which the study's seed chooses.
    `probe` is one of:

    - `gradient-cosine`: the cosine between the gradients of every pair of models (Liu et al. 2017, table 33). With
      `smoothing`, also the cosine for each number of copies and each sigma (Wu et al. 2019, figure 3a).
    - `regions`: the predicted label at `points` x `points` points of a plane, from -`extent` to `extent` on both axes
      (Liu et al., figures 3 to 5). `across` is made orthogonal to `along`. With `step: sign`, the signs of both
      directions are the axes (Wu et al., figure 9).
    - `linearity`: the logits of the true label and of the `labels` most probable labels, at `distances` along a line
      (Liu et al., figure 7).
    - `intervals`: the predicted label at `distances` along a line (Liu et al., figure 6).
    """

    probe: Kind
    models: Names | None = None
    images: Annotated[int, Field(ge=1)] | Ids | Literal["all"] = "all"
    goal: Goal = "untargeted"
    objective: Loss = "cross-entropy"
    smoothing: Curve | None = None
    along: Direction | None = None
    across: Direction | None = None
    step: Literal["l2", "sign"] = "l2"
    extent: Annotated[float, Field(gt=0, le=1e4)] = 50.0
    points: Annotated[int, Field(ge=3, le=1001)] = 51
    distances: LineRange | None = None
    labels: Annotated[int, Field(ge=1, le=100)] = 10

    @model_validator(mode="before")
    @classmethod
    def _own_keys(cls, given: Any) -> Any:
        # A list or a mapping cannot be looked up in a mapping, but in a tuple. Pydantic then refuses it.
        if not isinstance(given, dict) or given.get("probe") not in tuple(KEYS):
            return given
        kind: Kind = given["probe"]
        foreign = [key for key in given if key in cls.model_fields and key not in (*_EVERY, *KEYS[kind])]
        if foreign:
            raise rejected(f"a probe of {kind} has no key `{foreign[0]}`", ", ".join((*_EVERY, *KEYS[kind])))
        missing = [key for key in ("along", "distances") if key in KEYS[kind] and given.get(key) is None]
        if missing:
            example = "{gradient_of: <model>}" if missing[0] == "along" else "{from: 0, to: 50, by: 1}"
            raise rejected(f"a probe of {kind} needs the key `{missing[0]}`", f"{missing[0]}: {example}")
        if kind == "regions":
            given = {**given, "across": given.get("across") or {"random": 0}}
        return given

    @model_validator(mode="after")
    def _a_plane(self) -> Probe:
        if self.along is not None and self.along == self.across:
            raise rejected("`across` is the same direction as `along`", "another direction, such as {random: 1}")
        if self.points % 2 == 0:
            raise rejected(
                "`points` must be odd: the middle point is the image itself",
                f"an odd number, such as {self.points + 1}",
            )
        return self

    @model_serializer(mode="wrap")
    def _only_own_keys(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in write(self).items() if key in (*_EVERY, *KEYS[self.probe])}

    @property
    def directions(self) -> tuple[Direction, ...]:
        """The directions of the probe's line or plane; empty for a gradient-cosine probe."""
        return tuple(one for one in (self.along, self.across) if one is not None)

    @property
    def attacks(self) -> tuple[str, ...]:
        """The names of the attacks in the probe's directions."""
        return tuple(one.attack for one in self.directions if one.attack is not None)

    @property
    def targeted(self) -> bool:
        """Whether the probe's rows depend on target labels."""
        return self.goal == "targeted" or any(one.goal == "targeted" for one in self.directions)

    @property
    def axis(self) -> tuple[float, ...]:
        """The coordinates of a plane's points on each axis, in ascending order. The middle coordinate is 0."""
        half = self.points // 2
        return tuple((index - half) * (self.extent / half) for index in range(self.points))

    @property
    def count(self) -> int:
        """The number of points of the probe's line or plane; 0 for a gradient-cosine probe."""
        if self.distances is not None:
            return len(self.distances.levels)
        return self.points**2 if self.probe == "regions" else 0
