"""Calibrated logits: a cross-entropy whose gradient does not vanish when the model is certain of a label."""

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
    """Cross-entropy after the logits are divided by the margin of the two largest logits, or by a temperature.

    Source: Weng et al. 2023, arXiv:2303.03680, which calls this margin-based and temperature-based calibration.

    - `by: margin`: the divisor is the largest logit minus the second largest logit of the image. The margin counts as a
      constant, so no gradient passes through it. If the two logits are equal, the logits are not divided;
    - `by: temperature`: the divisor is `temperature`, which has no unit. The paper's best temperature is 5.

    The third calibration of the paper is the component `cosine-head`. It uses the cosine of the last features and the
    target's weights.
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
        """Return the divisor of `logits` (..., N, classes): a tensor (..., N, 1), or the number `temperature`."""
        import torch

        if self.by == "temperature":
            return self.temperature
        first, second = logits.detach().topk(2, dim=-1).values.unbind(-1)
        margin = first - second
        return torch.where(margin > 0, margin, 1).unsqueeze(-1)
