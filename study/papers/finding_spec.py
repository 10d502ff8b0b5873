"""Findings in a spec: a paper's claim, and one check of it, as data.

Rates are shares, 0..1; RMSDs are in pixel values, 0..255. A selection takes black-box cells by default. Rows with equal
values of the keys in `cells` form one cell. In a cell, all rows of an image are averaged over seeds, and over each of
attack, sources and target that is not in `cells`.
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
    """A selection of planned cells: of all experiments, or of one `experiment`, limited by the other keys.

    - `sources`: a list of models and of lists of models, as in an experiment;
    - `steps`: a checkpoint of the attack; if absent, its last step;
    - `budget`: one budget of an attack with several budgets; if absent, all of them;
    - `boxes`: `black` (the target shares no network with the sources), `grey` (it has a source's network, with a
      transform or other weights), `white` (it is a source) or `any`.
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
    """The share of images that succeed is `above` or `below` a number."""

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
    """`better` succeeds more often than `than` on the same images, by more than `by`.

    With `equal: gradients`, the finding is undecided unless `better` and `than` need the same number of gradients per
    image.
    """

    better: CellSelection
    than: CellSelection
    by: Share = 0.0
    top: Top = 1
    equal: Literal["gradients"] | None = None


class Rmsd(CellCheck):
    """`less` moves the same images less than `than`, by an RMSD of more than `by`.

    If an attack searches the minimal RMSD and never succeeds on an image, the image counts with the largest RMSD of the
    search, which is a lower bound of its minimal RMSD.
    """

    less: CellSelection
    than: CellSelection
    by: Annotated[float, Field(ge=0, le=255)] = 0.0


class Asymmetric(CellCheck):
    """The success rate from model a to model b differs from the rate from b to a by more than `by`.

    `pairs`: the pairs (a, b) of models; if absent, all pairs with rows in both directions.
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
    """Success rises or falls along a sequence of points.

    The check holds if a line fitted to the success rates changes by more than `by` from the first to the last point,
    and if the success rate does not clearly change in the other direction between any two neighbouring points.
    `along` names what changes from point to point: `sources`, `attack` or `target`, with the points in the given
    `order`; or `steps`, `budget` or a number of the recipes, such as `skip_gradient.gamma`, with the points in
    ascending order.
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
    """The destruction rate of `lower` is below that of `than` by more than `by` (Kurakin et al. 2017).

    The targets of the selections are models with a transform, and the spec must have the same models without the
    transform. An image counts if the model without the transform classifies the clean image correctly and both attacks
    fool this model. The destruction rate is the share of these images that the target classifies correctly again.
    """

    lower: CellSelection
    than: CellSelection
    by: Share = 0.0


class Cosine(Frozen):
    """The mean cosine between the gradients of two models is `below` a number. Needs a probe `gradient-cosine`."""

    below: Annotated[float, Field(ge=-1, le=1)]
    probe: str | None = None
    models: Names | None = None
    holds: Holds = "each"


class Check(Frozen):
    """One statement. Exactly one of the keys is given."""

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
        """The key of the statement that is given."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)

    @property
    def selections(self) -> dict[str, CellSelection]:
        """The selections of the statement, by key."""
        statement = getattr(self, self.kind)
        found = {name: getattr(statement, name) for name in type(statement).model_fields}
        return {name: one for name, one in found.items() if isinstance(one, CellSelection)}


class Finding(Frozen):
    """A paper's claim in our words, its source, and one check."""

    claim: str
    source: str
    check: Check
