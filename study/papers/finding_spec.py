"""What a spec says about findings: a claim, and one check out of a small closed vocabulary. Data alone.

Rates are shares, 0..1, and RMSDs pixel values, 0..255. Only black-box cells are looked at, unless a selection says
otherwise. What a cell does not hold apart (attacks, seeds, and sources or targets that are no key of `cells`) is
averaged image by image.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from study.attacks.recipe import Goal
from study.spec.frozen import Frozen

Names = Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
Sets = Annotated[tuple[Names, ...], Field(strict=False, min_length=1)]
Key = Literal["sources", "attack", "target"]
Keys = Annotated[tuple[Key, ...], Field(strict=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Top = Annotated[int, Field(ge=1, le=5)]
Holds = Literal["each", "average", "some"]
Boxes = Literal["black", "grey", "white", "any"]


class Selection(Frozen):
    """Which planned cells: those of all experiments, unless an `experiment` is named, narrowed by what is given.

    `sources` is a list of models and of lists of models, as in an experiment. Of an attack with checkpoints the last
    one counts, unless `steps` names another; of one with several budgets all count, unless `budget` names one. `boxes`:
    `black` (the target has no network of the sources), `grey` (it has one: behind a transform, or with other weights),
    `white` (it is a source) or `any`.
    """

    experiment: str | None = None
    attacks: Names | None = None
    goal: Goal | None = None
    sources: Sets | None = None
    targets: Names | None = None
    steps: Annotated[int, Field(ge=0)] | None = None
    budget: float | None = None
    boxes: Boxes = "black"

    @field_validator("attacks", "targets", mode="before")
    @classmethod
    def _one_is_a_list(cls, given: Any) -> Any:
        return [given] if isinstance(given, str) else given

    @field_validator("sources", mode="before")
    @classmethod
    def _sets(cls, given: Any) -> Any:
        listed = [given] if isinstance(given, str) else given
        return [[one] if isinstance(one, str) else one for one in listed] if isinstance(listed, list) else listed


class _Check(Frozen):
    """`cells` are held apart; `holds` says of how many of them it must be so: `each`, `some`, or on `average`."""

    cells: Keys = ("sources", "target")
    holds: Holds = "each"

    @field_validator("cells", mode="before")
    @classmethod
    def _one_key(cls, given: Any) -> Any:
        return [given] if isinstance(given, str) else given


class Rate(_Check):
    """The share of images that succeed is `above` or `below` a number."""

    of: Selection
    top: Top = 1
    below: Share | None = None
    above: Share | None = None
    cells: Keys = ("sources", "attack", "target")

    @model_validator(mode="after")
    def _one_bound(self) -> Rate:
        if (self.below is None) == (self.above is None):
            raise _wrong("a rate is held against one number", "below: 0.1, or above: 0.5")
        return self


class Compare(_Check):
    """`better` succeeds more often than `than`, on the same images, by more than `by`.

    `equal: gradients` lets it be decided only where both cost an image the same number of image gradients.
    """

    better: Selection
    than: Selection
    by: Share = 0.0
    top: Top = 1
    equal: Literal["gradients"] | None = None


class Rmsd(_Check):
    """`less` moves the same images less than `than`, by more than `by` (RMSD).

    Where an attack searches for the minimal RMSD, an image on which it never succeeds counts with the largest that was
    tried: less than it would need.
    """

    less: Selection
    than: Selection
    by: Annotated[float, Field(ge=0, le=255)] = 0.0


class Asymmetric(_Check):
    """From a to b as many images transfer as from b to a, to within `by`: this is not so, in whichever direction.

    `pairs` names pairs of models; all that have both directions, unless given.
    """

    of: Selection
    pairs: Annotated[tuple[Names, ...], Field(strict=False, min_length=1)] | None = None
    by: Share = 0.0
    top: Top = 1

    @field_validator("pairs")
    @classmethod
    def _two(cls, given: tuple[tuple[str, ...], ...] | None) -> tuple[tuple[str, ...], ...] | None:
        odd = next((one for one in given or () if len(set(one)) != 2), None)
        if odd is not None:
            raise _wrong(f"[{', '.join(odd)}] is no pair of models", "two models, such as [resnet50, vgg16]")
        return given


class Monotone(_Check):
    """Success goes one way along something: a line through it rises or falls by more than `by` from the first to the
    last, and no two neighbours clearly go the other way.

    `along` is `sources`, `attack` or `target`, in the given `order`, or a number of the recipes, such as
    `skip_gradient.gamma`, by which the selected attacks are ordered.
    """

    of: Selection
    along: str
    order: Annotated[tuple[str, ...], Field(strict=False, min_length=2)] | None = None
    direction: Literal["rising", "falling"]
    by: Share = 0.0
    top: Top = 1

    @model_validator(mode="after")
    def _ordered(self) -> Monotone:
        named = self.along in ("sources", "attack", "target")
        if named != (self.order is not None):
            raise _wrong(
                f"`order` goes with `along: sources`, `attack` or `target`, and here `along` is {self.along}",
                "along: sources and order: [resnet18, resnet152], or along: skip_gradient.gamma without an order",
            )
        if self.order is not None and len(set(self.order)) < len(self.order):
            raise _wrong("a name stands twice in the order", "each name once")
        return self


class Destruction(_Check):
    """Of the images that fool the plain model with both attacks, a transformation brings fewer of `lower` back to their
    true label than of `than` (destruction rate, Kurakin et al. 2017), by more than `by`. Targets are the transformed
    models of the selections; each plain one is the same model of the spec without the transform.
    """

    lower: Selection
    than: Selection
    by: Share = 0.0


class Cosine(Frozen):
    """The mean cosine of the angle between two models' gradients is `below` a number. Rows of a probe of geometry."""

    below: Annotated[float, Field(ge=-1, le=1)]
    probe: str | None = None
    models: Names | None = None
    holds: Holds = "each"


class Check(Frozen):
    """One statement: exactly one of the kinds."""

    rate: Rate | None = None
    compare: Compare | None = None
    rmsd: Rmsd | None = None
    asymmetric: Asymmetric | None = None
    monotone: Monotone | None = None
    destruction: Destruction | None = None
    cosine: Cosine | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Check:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise _wrong(
                f"a check is one statement, and this has {' and '.join(given) or 'none'}",
                ", ".join(type(self).model_fields),
            )
        return self

    @property
    def kind(self) -> str:
        """Which of the kinds it is."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)

    @property
    def selections(self) -> dict[str, Selection]:
        """The selections that it names, by key."""
        said = getattr(self, self.kind)
        found = {name: getattr(said, name) for name in type(said).model_fields}
        return {name: one for name, one in found.items() if isinstance(one, Selection)}


class Finding(Frozen):
    """A paper's claim in our words, where it stands, and what is checked of it."""

    claim: str
    source: str
    check: Check


def _wrong(what: str, accepted: str) -> PydanticCustomError:
    return PydanticCustomError("findings", "{what}", {"what": what, "accepted": accepted})
