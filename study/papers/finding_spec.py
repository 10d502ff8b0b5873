"""Findings in a spec: a paper's claim, and one check of this claim, as data.

Rates are shares 0..1, and RMSDs are in pixel values 0..255. A selection contains black-box cells by default. Rows with
equal values of the keys in `cells` form one cell of the check. In a cell, the rows of an image are averaged: over
seeds, goals and budgets, and over each of attack, sources and target that is not in `cells`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from study.attacks.recipe import Goal
from study.spec.frozen import Frozen, rejected
from study.spec.shorthand import Names, OneItem, OneOrMore

Key = Literal["sources", "attack", "target"]
Keys = Annotated[tuple[Key, ...], Field(strict=False), OneItem()]
Share = Annotated[float, Field(ge=0, le=1)]
Top = Annotated[int, Field(ge=1, le=5)]
Holds = Literal["each", "average", "some"]
Boxes = Literal["black", "grey", "white", "any"]


class CellSelection(Frozen):
    """A selection of planned cells from all experiments, or from one `experiment`. The other keys narrow the selection.

    - `sources`: a list of models and of lists of models, as in an experiment;
    - `steps`: a checkpoint of the attack; if absent, the attack's last step;
    - `budget`: one budget of an attack with several budgets; if absent, all of them;
    - `boxes`: `black` (the target does not have the network of a source), `grey` (the target has the network of a
      source, with a transform or with other weights), `white` (the target is a source) or `any`.
    """

    experiment: str | None = None
    attacks: Names | None = None
    goal: Goal | None = None
    sources: OneOrMore[Names] | None = None
    targets: Names | None = None
    steps: Annotated[int, Field(ge=0)] | None = None
    budget: float | None = None
    boxes: Boxes = "black"


class CellCheck(Frozen):
    """A check of cells. Rows with equal values of the keys in `cells` form one cell.

    `holds`: whether the claim is about `each` cell, about `some` cell (at least one), or about the `average` of cells.
    """

    cells: Keys = ("sources", "target")
    holds: Holds = "each"


class Rate(CellCheck):
    """The claim that the success rate is `above` or `below` a number. The rate is the share of images that succeed."""

    of: CellSelection
    top: Top = 1
    below: Share | None = None
    above: Share | None = None
    cells: Keys = ("sources", "attack", "target")

    @model_validator(mode="after")
    def _one_bound(self) -> Rate:
        if (self.below is None) == (self.above is None):
            raise rejected("a rate has exactly one bound", "below: 0.1, or above: 0.5")
        return self


class Compare(CellCheck):
    """The claim that `better` succeeds more often than `than` on the same images, by more than `by`.

    With `equal: gradients`, the finding is undecided if `better` and `than` need different numbers of gradients per
    image.
    """

    better: CellSelection
    than: CellSelection
    by: Share = 0.0
    top: Top = 1
    equal: Literal["gradients"] | None = None


class Rmsd(CellCheck):
    """The claim that `less` changes the same images less than `than`: the RMSD is smaller by more than `by`.

    A search for the minimal RMSD may never succeed on an image. Then the image counts with the largest RMSD of the
    search, which is a lower bound of its minimal RMSD.
    """

    less: CellSelection
    than: CellSelection
    by: Annotated[float, Field(ge=0, le=255)] = 0.0


class Asymmetric(CellCheck):
    """The claim that transfer is asymmetric: the success rates in the two directions differ by more than `by`.

    One direction has source a and target b, and the other has source b and target a. `pairs`: the pairs (a, b) of
    models; if absent, all pairs with rows in both directions.
    """

    of: CellSelection
    pairs: Annotated[tuple[Names, ...], Field(strict=False, min_length=1)] | None = None
    by: Share = 0.0
    top: Top = 1

    @field_validator("pairs")
    @classmethod
    def _two(cls, given: tuple[tuple[str, ...], ...] | None) -> tuple[tuple[str, ...], ...] | None:
        odd = next((one for one in given or () if len(set(one)) != 2), None)
        if odd is not None:
            raise rejected(f"[{', '.join(odd)}] is not a pair of models", "two models, such as [resnet50, vgg16]")
        return given


class Monotone(CellCheck):
    """The claim that the success rate rises or falls along a sequence of points.

    The claim holds in a cell under two conditions. First, a straight line fitted to the success rates changes by more
    than `by` from the first to the last point. Second, the success rate does not clearly change in the other direction
    between two adjacent points. With `holds: average`, only the first condition counts, for the average of cells.

    `along` names what differs between the points. It can be `sources`, `attack` or `target`; then `order` lists the
    points. It can also be `steps`, `budget`, or a numeric key of the recipes, such as `skip_gradient.gamma`; then
    the points are in ascending order.
    """

    of: CellSelection
    along: str
    order: Annotated[tuple[str, ...], Field(strict=False, min_length=2)] | None = None
    direction: Literal["rising", "falling"]
    by: Share = 0.0
    top: Top = 1

    @model_validator(mode="after")
    def _ordered(self) -> Monotone:
        named = self.along in ("sources", "attack", "target")
        if named != (self.order is not None):
            raise rejected(
                f"`along: {self.along}` {'needs an `order`' if named else 'cannot have an `order`'}",
                "along: sources and order: [resnet18, resnet152], or along: skip_gradient.gamma without an order",
            )
        if self.order is not None and len(set(self.order)) < len(self.order):
            raise rejected("a name is repeated in the order", "each name once")
        return self


class Destruction(CellCheck):
    """The claim that the destruction rate of `lower` is below the destruction rate of `than`, by more than `by`.

    The destruction rate (Kurakin et al. 2017) is the share of successful images that a transform makes harmless. The
    targets of the selections are models with a transform. The spec must also have the same models without the
    transform. An image counts if the model without the transform classifies the clean image correctly, and if both
    attacks fool this model. The rate is the share of these images that the target classifies correctly again.
    """

    lower: CellSelection
    than: CellSelection
    by: Share = 0.0


class Cosine(Frozen):
    """The claim that the mean cosine between the gradients of two models is `below` a number.

    The spec must have a probe `gradient-cosine`, which computes the cosines.
    """

    below: Annotated[float, Field(ge=-1, le=1)]
    probe: str | None = None
    models: Names | None = None
    holds: Holds = "each"


class Check(Frozen):
    """The check of a finding: exactly one statement, given under the key of its kind."""

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
            raise rejected(
                f"a check must have exactly one statement, but this check has {' and '.join(given) or 'none'}",
                ", ".join(type(self).model_fields),
            )
        return self

    @property
    def kind(self) -> str:
        """The key of the statement, such as `rate` or `compare`."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)

    @property
    def selections(self) -> dict[str, CellSelection]:
        """The selections of cells in the statement, by key, such as `of`, `better` or `than`."""
        statement = getattr(self, self.kind)
        found = {name: getattr(statement, name) for name in type(statement).model_fields}
        return {name: one for name, one in found.items() if isinstance(one, CellSelection)}


class Finding(Frozen):
    """A finding: a paper's claim in our own words, the source in the paper, and one check of the claim."""

    claim: str
    source: str
    check: Check
