"""Losses of logits: cross-entropy, log(1 - p), logit and margin.

In this file, z are the logits, p the probabilities, y is the true label and t the target label. All losses are
maximised. Cross-entropies are computed from the log-odds of a label: a = z_y - log sum_{j != y} exp z_j. Then
log p_y = log sigmoid(a), and log(1 - p_y) = log sigmoid(-a). In this form, the gradients keep full relative precision
when p_y is close to 0 or 1. If 1 - softmax were computed instead, the gradients would be only rounding errors. Adam
would amplify these errors, because Adam divides by the size of the gradient.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from study.attacks.kinds import Goal, Objective
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


class _OfProbability(Objective):
    """Base class of losses sign * log f(p), where p is the label's probability, and f(p) is p or 1 - p.

    The loss of the models' mean probability is computed from each model's log f(p).
    """

    def parts(self, logits: Tensor, labels: Tensor, goal: Goal) -> tuple[int, Tensor]:
        """Return the sign (1 or -1) and log f(p), shape (..., N), for logits (..., N, C) and labels (N,)."""
        raise NotImplementedError

    def loss(self, logits: Tensor, labels: Tensor, goal: Goal) -> Tensor:
        sign, value = self.parts(logits, labels, goal)
        return sign * value

    def loss_of_mean(self, logits: Tensor, shares: Tensor, labels: Tensor, goal: Goal) -> Tensor:
        sign, value = self.parts(logits, labels, goal)
        return sign * (value + shares.log()).logsumexp(0)


@register
class CrossEntropy(_OfProbability):
    """Cross-entropy: the attack maximises -log p_y if untargeted, and log p_t if targeted.

    p are the probabilities, y is the true label and t the target label.
    """

    name: ClassVar[str] = "cross-entropy"

    def parts(self, logits: Tensor, labels: Tensor, goal: Goal) -> tuple[int, Tensor]:
        from torch.nn.functional import logsigmoid

        return (1 if goal == "targeted" else -1), logsigmoid(log_odds(logits, labels))


@register
class LogOneMinusP(_OfProbability):
    """log(1 - p): the attack maximises log(1 - p_y) if untargeted, and log p_t if targeted.

    Liu et al. 2017, equation 3, for the untargeted attack. p are the probabilities, y is the true label and t the
    target label.
    """

    name: ClassVar[str] = "log(1-p)"

    def parts(self, logits: Tensor, labels: Tensor, goal: Goal) -> tuple[int, Tensor]:
        from torch.nn.functional import logsigmoid

        odds = log_odds(logits, labels)
        return 1, logsigmoid(odds if goal == "targeted" else -odds)


@register
class Logit(Objective):
    """Logit: the attack maximises -z_y if untargeted, and z_t if targeted.

    Zhao et al. 2021, arXiv:2012.11207, equation 4. z are the logits, y is the true label and t the target label.
    """

    name: ClassVar[str] = "logit"

    def loss(self, logits: Tensor, labels: Tensor, goal: Goal) -> Tensor:
        chosen, _ = _split(logits, labels)
        return chosen if goal == "targeted" else -chosen


@register
class Margin(Objective):
    """Margin: the attack maximises max_{j != y} z_j - z_y if untargeted, and z_t - max_{j != t} z_j if targeted.

    Carlini and Wagner 2017, f_6. z are the logits, y is the true label and t the target label.
    """

    name: ClassVar[str] = "margin"

    def loss(self, logits: Tensor, labels: Tensor, goal: Goal) -> Tensor:
        chosen, others = _split(logits, labels)
        above = chosen - others.amax(-1)
        return above if goal == "targeted" else -above


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """Return log p_y - log(1 - p_y), shape (..., N), for logits (..., N, C) and labels (N,).

    p_y is the softmax probability of the label, and C is the number of classes.
    """
    chosen, others = _split(logits, labels)
    return chosen - others.logsumexp(-1)


def _split(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the label's logit (..., N), and a copy of `logits` (..., N, C) in which this logit is minus infinity."""
    index = labels.expand(logits.shape[:-1]).unsqueeze(-1)
    return logits.gather(-1, index).squeeze(-1), logits.scatter(-1, index, -math.inf)
