"""Losses of logits: cross-entropy, log(1 - p), logit and margin.

z are the logits, p the probabilities, y is the true label and t the target label. Cross-entropies are computed from the
log-odds a = z_y - log sum_{j != y} exp z_j of a label: log p_y = log sigmoid(a) and log(1 - p_y) = log sigmoid(-a). In
this form their gradients keep full relative precision when p_y is close to 0 or 1. With 1 - softmax, the gradients
would cancel to noise, which Adam would amplify, because it divides by the size of the gradient.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from study.attacks.kinds import Goal, Objective
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


class _OfProbability(Objective):
    """A loss sign * log f(p). For the models' mean probability, the loss is computed from each model's log f(p)."""

    def parts(self, logits: Tensor, labels: Tensor, goal: Goal) -> tuple[int, Tensor]:
        """Return the sign, and log f(p) (..., N)."""
        raise NotImplementedError

    def loss(self, logits: Tensor, labels: Tensor, goal: Goal) -> Tensor:
        sign, value = self.parts(logits, labels, goal)
        return sign * value

    def loss_of_mean(self, logits: Tensor, shares: Tensor, labels: Tensor, goal: Goal) -> Tensor:
        sign, value = self.parts(logits, labels, goal)
        return sign * (value + shares.log()).logsumexp(0)


@register
class CrossEntropy(_OfProbability):
    """Cross-entropy: untargeted -log p_y, targeted log p_t."""

    name: ClassVar[str] = "cross-entropy"

    def parts(self, logits: Tensor, labels: Tensor, goal: Goal) -> tuple[int, Tensor]:
        from torch.nn.functional import logsigmoid

        return (1 if goal == "targeted" else -1), logsigmoid(log_odds(logits, labels))


@register
class LogOneMinusP(_OfProbability):
    """Untargeted log(1 - p_y) (Liu et al. 2017, equation 3), targeted log p_t."""

    name: ClassVar[str] = "log(1-p)"

    def parts(self, logits: Tensor, labels: Tensor, goal: Goal) -> tuple[int, Tensor]:
        from torch.nn.functional import logsigmoid

        odds = log_odds(logits, labels)
        return 1, logsigmoid(odds if goal == "targeted" else -odds)


@register
class Logit(Objective):
    """Logit: untargeted -z_y, targeted z_t (Zhao et al. 2021, arXiv:2012.11207, equation 4)."""

    name: ClassVar[str] = "logit"

    def loss(self, logits: Tensor, labels: Tensor, goal: Goal) -> Tensor:
        chosen, _ = _split(logits, labels)
        return chosen if goal == "targeted" else -chosen


@register
class Margin(Objective):
    """Margin: untargeted max_{j != y} z_j - z_y, targeted z_t - max_{j != t} z_j (Carlini and Wagner 2017, f_6)."""

    name: ClassVar[str] = "margin"

    def loss(self, logits: Tensor, labels: Tensor, goal: Goal) -> Tensor:
        chosen, others = _split(logits, labels)
        above = chosen - others.amax(-1)
        return above if goal == "targeted" else -above


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """Return log p_y - log(1 - p_y), shape (..., N), for logits (..., N, C) and labels (N,)."""
    chosen, others = _split(logits, labels)
    return chosen - others.logsumexp(-1)


def _split(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The label's logit (..., N), and all logits (..., N, C) with minus infinity in place of the label's."""
    index = labels.expand(logits.shape[:-1]).unsqueeze(-1)
    return logits.gather(-1, index).squeeze(-1), logits.scatter(-1, index, -math.inf)
