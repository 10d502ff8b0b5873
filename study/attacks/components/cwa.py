"""Common weakness attack (CWA): one step down the gradient of the ensemble, then one step up each model's gradient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from study.attacks.budget_spec import Positive
from study.attacks.component import AttackOutline
from study.attacks.components.directions import l2_normalised
from study.attacks.kinds import AnyObjective, EnsembleRule, Goal, ModelsAt, Objective, State
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor

_REVERSE = 15
"""The default length of the first step is epsilon divided by this number."""


@register
class CommonWeakness(EnsembleRule):
    """Common weakness attack (CWA): one step down the ensemble's gradient, then one step up each model's gradient.

    Source: Chen et al. 2024, arXiv:2303.09105, algorithm of MI-CWA. The rule starts at the image x:

    - First step: y <- x - `reverse` sign(g(x)), where g is the gradient of the models' mean loss;
    - Then, for each model k in turn: m <- `decay` m + g_k(y) / ||g_k(y)||_2 and y <- y + `size` m, where g_k is the
      gradient of model k.

    After each step, y is projected onto the budget. The rule returns the final y - x as the gradient. The momentum m is
    kept from one step of the attack to the next. A study takes models in the order of their names.

    - `reverse`: the length of the first step in pixel values; by default epsilon / 15;
    - `size`: an L2 length in pixel values. The default is the authors' 250 for pixel values in 0..1. This length is so
      large that nearly every pixel ends at the edge of the budget.

    Other code: The authors divide y - x by its L1 norm over the whole batch before the outer momentum. Here, the
    attack's own momentum normalises each image. `variant: authors` takes g for the models' summed logits, as the
    authors' code does. TransferAttack takes g for the mean logits. With one model, the rule takes one step down and one
    step up the gradient of that model.
    """

    name: ClassVar[str] = "cwa"

    reverse: Positive | None = None
    size: Positive = 63_750.0
    decay: Annotated[float, Field(ge=0, le=100)] = 1.0
    variant: Literal["paper", "authors"] = "paper"

    def conflicts(self, attack: AttackOutline) -> Iterator[str]:
        if self.reverse is None and attack.budget.epsilon is None:
            yield "`fusion: cwa` first steps back by epsilon / 15, but the budget has no epsilon: set `reverse` of cwa"

    def loss(self, objective: AnyObjective, logits: Tensor, shares: Tensor, labels: Tensor, goal: Goal) -> Tensor:
        if self.variant == "paper" or len(logits) == 1:
            return super().loss(objective, logits, shares, labels, goal)
        assert isinstance(objective, Objective), "an ensemble rule never fuses losses of features"
        return objective.loss((len(logits) * shares[..., None] * logits).sum(0), labels, goal)

    def gradient(self, image: Tensor, models: ModelsAt, sample: int, state: State) -> Tensor:
        reverse = self.reverse
        if reverse is None:
            assert models.epsilon is not None, "conflicts() requires an epsilon"
            reverse = models.epsilon / _REVERSE
        begun = image - models.origin
        delta = models.project(begun - reverse * models.joint(image, sample).sign())
        momentum: Tensor = state.get(str(sample), image.new_zeros(()))
        for model in range(models.count):
            momentum = self.decay * momentum + l2_normalised(models.of(model, models.origin + delta, sample))
            delta = models.project(delta + self.size * momentum)
        state[str(sample)] = momentum
        return delta - begun

    def cost(self, sources: int) -> int:
        return 2 * sources
