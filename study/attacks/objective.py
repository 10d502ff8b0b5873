"""The loss that an attack maximises: one number for every image, from the logits of one or several source models.

Cross-entropies are computed from the log-odds a = z_y - log sum_{j != y} exp z_j of a label:
log p_y = log sigmoid(a) and log(1 - p_y) = log sigmoid(-a). In this form their gradients keep full relative precision
when p_y is close to 0 or 1. With 1 - softmax they would cancel to noise, which Adam amplifies: it divides by the size
of the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from study.attacks.recipe import Fusion, Goal, Objective


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """Return log p_y - log(1 - p_y), shape (..., N), for logits (..., N, C) and labels (N,)."""
    chosen, others = _split(logits, labels)
    return chosen - others.logsumexp(-1)


def attack_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    goal: Goal,
    objective: Objective,
    fusion: Fusion,
    weights: Sequence[float] | None = None,
) -> Tensor:
    """Return the loss to maximise, float (N,), for logits (K, N, C) of K source models.

    `labels` (N,) are the true labels for an untargeted goal, the target labels for a targeted goal. `weights` (K,) sum
    to 1; absent, they are equal.

    - cross-entropy: untargeted -log p_y, targeted log p_t;
    - log(1-p): untargeted log(1 - p_y) (Liu et al. 2017, equation 3), targeted log p_t;
    - logit: untargeted -z_y, targeted z_t (Zhao et al. 2021, arXiv:2012.11207, equation 4);
    - margin: untargeted max_{j != y} z_j - z_y, targeted z_t - max_{j != t} z_j (Carlini and Wagner 2017, f_6).

    Fusion: `probability` averages the models' probabilities (Liu et al. 2017, equation 6), `logit` their logits (Dong
    et al. 2018, section 3.4), `loss` their losses. For `summed-updates` the loop calls this function once per model.
    """
    count = len(logits)
    shares = torch.tensor([1 / count] * count if weights is None else list(weights), dtype=logits.dtype)
    shares = shares.to(logits.device)[:, None]
    if fusion == "logit" and count > 1:
        logits, shares = (shares[..., None] * logits).sum(0, keepdim=True), shares.new_ones(1, 1)
    elif fusion == "probability" and objective == "margin" and count > 1:
        logits = (logits.log_softmax(-1) + shares[..., None].log()).logsumexp(0, keepdim=True)
        shares = shares.new_ones(1, 1)
    if objective in ("logit", "margin"):
        chosen, others = _split(logits, labels)
        above = chosen if objective == "logit" else chosen - others.amax(-1)
        return (shares * (above if goal == "targeted" else -above)).sum(0)
    odds = log_odds(logits, labels)
    if goal == "targeted":
        sign, value = 1, logsigmoid(odds)
    elif objective == "log(1-p)":
        sign, value = 1, logsigmoid(-odds)
    else:
        sign, value = -1, logsigmoid(odds)
    if fusion == "probability":
        return sign * (value + shares.log()).logsumexp(0)
    return sign * (shares * value).sum(0)


def per_model(fusion: Fusion) -> bool:
    """Whether every source model has its own gradient, momentum and step (Liu et al. 2017, section 5)."""
    return fusion == "summed-updates"


def _split(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The label's logit (..., N), and all logits (..., N, C) with minus infinity in place of the label's."""
    index = labels.expand(logits.shape[:-1]).unsqueeze(-1)
    return logits.gather(-1, index).squeeze(-1), logits.scatter(-1, index, -math.inf)
