"""An objective that is the softmax probability of the label."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from study.attacks.components.objectives import log_odds
from study.attacks.kinds import Goal, Objective
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class LabelProbability(Objective):
    """The softmax probability of the label: the attack maximises -p_y if untargeted, and p_t if targeted.

    Ma et al. 2023 (MIG, ICCV 2023). p are the probabilities, y is the true label and t the target label.
    """

    name: ClassVar[str] = "probability"

    def loss(self, logits: Tensor, labels: Tensor, goal: Goal) -> Tensor:
        chosen = log_odds(logits, labels).sigmoid()
        return chosen if goal == "targeted" else -chosen
