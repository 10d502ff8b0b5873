"""All components of an attack, in the order in which the attack loop runs them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from study.attacks.component import Component, HeldMemory
from study.attacks.kinds import (
    AnyObjective,
    BackwardChange,
    BudgetRule,
    EnsembleRule,
    FeatureObjective,
    ForwardChange,
    Penalty,
    Point,
    Program,
    Start,
    Step,
    Update,
    View,
)


@dataclass(frozen=True)
class Assembly:
    """The components of an attack.

    Point rules are nested: the first of `points` is the outermost one, and calls the next.
    """

    objective: AnyObjective
    ensemble: EnsembleRule
    step: Step
    budget: BudgetRule
    views: tuple[View, ...] = ()
    points: tuple[Point, ...] = ()
    updates: tuple[Update, ...] = ()
    penalties: tuple[Penalty, ...] = ()
    backward: tuple[BackwardChange, ...] = ()
    forward: tuple[ForwardChange, ...] = ()
    start: Start | None = None
    program: Program | None = None

    def __iter__(self) -> Iterator[Component]:
        """Yield every component, in the order in which the id of an attack run lists components.

        The budget comes last, because an id has a separate place for the budget.
        """
        yield from (self.objective, self.ensemble)
        for several in (self.views, self.points, self.updates, self.penalties, self.backward, self.forward):
            yield from several
        yield from (one for one in (self.step, self.start, self.program) if one is not None)
        yield self.budget

    @property
    def copies(self) -> int:
        """Number of transformed copies of each image: the product of the copies of all views."""
        return math.prod(view.count for view in self.views)

    @property
    def averages(self) -> Literal["gradients", "logits"]:
        """What the attack averages over the copies of an image: gradients, or logits if any view averages logits."""
        return "logits" if any(view.averages == "logits" for view in self.views) else "gradients"

    @property
    def together(self) -> bool:
        """Whether one loss depends on all copies of an image.

        All copies must then be in one pass through the network.
        """
        objective = self.objective
        return self.averages == "logits" or (isinstance(objective, FeatureObjective) and objective.together)

    @property
    def alone(self) -> bool:
        """Whether a pass through the network may hold only one copy of each image."""
        return any(change.alone for change in self.changes)

    @property
    def uses_weight_sets(self) -> bool:
        """Whether every source model needs a set of weights (`weights: {set: …}` in a spec)."""
        return any(change.uses_weight_set for change in (*self.backward, *self.forward))

    @property
    def others(self) -> int:
        """Size of the pool of images that components mix into other images; 0 if no component does this."""
        return max((one.others for one in self), default=0)

    @property
    def held_memory(self) -> HeldMemory:
        """The memory that all components together keep between passes through a network."""
        return sum((one.held_memory for one in self), HeldMemory())

    @property
    def reads_true_labels(self) -> bool:
        """Whether the attack reads the true labels even if its goal is targeted."""
        return any(one.reads_true_labels for one in self)

    @property
    def changes(self) -> tuple[BackwardChange | ForwardChange, ...]:
        """The components that change the source models during gradients: backward changes, then forward changes."""
        return (*self.backward, *self.forward)

    def gradients(self, steps: int, sources: int) -> int:
        """Return the number of gradients that one image takes in `steps` steps on `sources` source models.

        Gradients of single models are counted: the gradient of two fused models counts as two.
        """
        each = 1 + sum(change.extra_gradients for change in self.changes)
        return each * self._asked(steps, sources) + sources * sum(change.preparing_gradients for change in self.changes)

    def forwards(self, steps: int, sources: int) -> int:
        """Return the number of forward passes without a gradient that one image takes in `steps` steps.

        The number is the sum over `sources` source models.
        """
        preparing = self.objective.preparing_forwards if isinstance(self.objective, FeatureObjective) else 0
        extra = sum(change.extra_forwards for change in self.changes) * self._asked(steps, sources)
        if self.program is not None:
            return extra + sources * (self.program.forwards(steps, sources) + preparing)
        return extra + self.ensemble.forwards(sources) * _places(self.points, steps) + sources * preparing

    def _asked(self, steps: int, sources: int) -> int:
        """Return the result of `gradients`, but without the gradients that changes of the source models add."""
        preparing = self.objective.preparing_gradients if isinstance(self.objective, FeatureObjective) else 0
        views = self.copies * (1 + sum(view.inner_gradients for view in self.views))
        if self.program is not None:
            return sources * (self.program.cost(steps, sources, views) + preparing)
        return self.ensemble.cost(sources) * views * _places(self.points, steps) + sources * preparing

    def names(self) -> dict[str, list[str]]:
        """Return the names of the components, by kind."""
        found: dict[str, list[str]] = {}
        for one in self:
            found.setdefault(one.kind, []).append(one.name)
        return found


def _places(points: Sequence[Point], calls: int) -> int:
    """Return the number of perturbations at which an attack takes a gradient.

    `points`: the nested rules that choose these perturbations. The outermost rule is called `calls` times.
    """
    if not points:
        return calls
    inner, own = points[0].calls(calls)
    return own + _places(points[1:], inner)
