"""Common weakness attack, CWA: a step down the ensemble's gradient, then steps up each model's normalised gradient."""

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
"""The length of the first step is epsilon divided by this number."""


@register
class CommonWeakness(EnsembleRule):
    """Common weakness attack, CWA: a step down the ensemble's gradient, then one up each model's normalised gradient.

    Chen et al. 2024, arXiv:2303.09105, algorithm of MI-CWA. From the image x, the first step is y <- x - `reverse`
    sign(g(x)), with the gradient g of the mean loss. Then, for each model k in turn, with its gradient g_k:
    m <- `decay` m + g_k(y) / ||g_k(y)||_2 and y <- y + `size` m. Every y is projected onto the budget. The rule's
    gradient is y - x at the end. The momentum m is kept from step to step. The models are taken in the order of their
    names. `reverse` is in pixel values; its default is epsilon / 15. `size` is an L2 length in pixel values. Its
    default is the authors' 250 for values in 0..1, so large that nearly every pixel ends at the edge of the budget.

    The authors normalise y - x by its L1 norm over the whole batch before the outer momentum; here the attack's
    momentum normalises each image. In `variant: authors`, g is the gradient for the models' summed logits, as in the
    authors' code; in TransferAttack, it is the gradient for the mean logits. With one model, the rule takes a step down
    and then a step up this model's gradient.
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
        assert isinstance(objective, Objective), "losses of features are averaged before"
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
