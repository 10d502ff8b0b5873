"""Calibrated logits: a cross-entropy whose gradient does not vanish when the model is certain."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from study.attacks.budget_spec import Positive
from study.attacks.components.objectives import log_odds
from study.attacks.kinds import Goal, Objective
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register
class CalibratedCrossEntropy(Objective):
    """Cross-entropy of logits divided by the margin between the two largest logits, or by a fixed temperature.

    Weng et al. 2023, arXiv:2303.03680: margin-based and temperature-based calibration. The margin counts as a constant:
    no gradient passes through it. Where the two largest logits are equal, the logits are not divided. With
    `by: temperature` the divisor is `temperature`, without a unit; the paper's best temperature is 5.

    The paper's third calibration takes the cosine of the last features and the target's weights. It is the component
    `cosine-head`.
    """

    name: ClassVar[str] = "calibrated"
    main: ClassVar[str | None] = "by"

    by: Literal["margin", "temperature"] = "margin"
    temperature: Positive = 5.0

    def loss(self, logits: Tensor, labels: Tensor, goal: Goal) -> Tensor:
        from torch.nn.functional import logsigmoid

        value = logsigmoid(log_odds(logits / self._divisor(logits), labels))
        return value if goal == "targeted" else -value

    def _divisor(self, logits: Tensor) -> Tensor | float:
        """The divisor of the logits (..., N, classes): (..., N, 1), or one number."""
        import torch

        if self.by == "temperature":
            return self.temperature
        first, second = logits.detach().topk(2, dim=-1).values.unbind(-1)
        margin = first - second
        return torch.where(margin > 0, margin, 1).unsqueeze(-1)
