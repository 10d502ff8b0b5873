"""Rules that combine several source models: by mean probability, mean logits, mean loss, or summed updates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from study.attacks.component import AttackOutline
from study.attacks.kinds import AnyObjective, EnsembleRule, Goal, Objective
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class Probability(EnsembleRule):
    """The loss of the models' weighted mean probabilities (Liu et al. 2017, equation 6)."""

    name: ClassVar[str] = "probability"

    def conflicts(self, attack: AttackOutline) -> Iterator[str]:
        if "logit" in attack.parts.get("objective", ()):
            yield "`objective: logit` cannot be fused by probability: use `fusion: logit`, `loss` or `summed-updates`"

    def loss(self, objective: AnyObjective, logits: Tensor, shares: Tensor, labels: Tensor, goal: Goal) -> Tensor:
        assert isinstance(objective, Objective), "an ensemble rule never fuses losses of features"
        return objective.loss_of_mean(logits, shares, labels, goal)


@register
class LogitMean(EnsembleRule):
    """The loss of the models' weighted mean logits (Dong et al. 2018, section 3.4)."""

    name: ClassVar[str] = "logit"

    def loss(self, objective: AnyObjective, logits: Tensor, shares: Tensor, labels: Tensor, goal: Goal) -> Tensor:
        assert isinstance(objective, Objective), "an ensemble rule never fuses losses of features"
        if len(logits) > 1:
            logits, shares = (shares[..., None] * logits).sum(0, keepdim=True), shares.new_ones(1, 1)
        return super().loss(objective, logits, shares, labels, goal)


@register
class LossMean(EnsembleRule):
    """The weighted mean of the models' losses."""

    name: ClassVar[str] = "loss"


@register
class SummedUpdates(EnsembleRule):
    """The sum of the models' steps, where each model has its own gradient and momentum (Liu et al. 2017, section 5)."""

    name: ClassVar[str] = "summed-updates"
    separate: ClassVar[bool] = True
