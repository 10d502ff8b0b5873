"""What an attack climbs: a gain for every image, from the logits of one or several source models.

Both objectives are functions of the log-odds a = z_y - log sum_{j != y} exp z_j of a label, for
log p_y = log sigmoid(a) and log(1 - p_y) = log sigmoid(-a). Written so, their gradients keep full relative precision
when p_y nears 0 or 1, where 1 - softmax cancels; Adam, which divides by the gradient's size, would amplify the
noise that is left of a cancelled gradient.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from study.attacks.recipe import Fusion, Goal, Objective


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """log p_y - log(1 - p_y) for logits of shape (..., N, C) and labels (N,), as (..., N)."""
    index = labels.expand(logits.shape[:-1]).unsqueeze(-1)
    others = logits.scatter(-1, index, -math.inf).logsumexp(-1)
    return logits.gather(-1, index).squeeze(-1) - others


def gain(logits: Tensor, labels: Tensor, *, goal: Goal, objective: Objective, fusion: Fusion) -> Tensor:
    """The quantity to increase, float (N,), for logits (K, N, C) of K source models.

    `labels` (N,) are the true labels of an untargeted goal, the wanted ones of a targeted goal.
    Untargeted: the cross-entropy -log p_y, or log(1 - p_y) (Liu et al. 2017, equation 3). Targeted: log p_t.
    Fusion: `probability` averages the models' probabilities (Liu et al. 2017, equation 6), `logit` their
    logits (Dong et al. 2018, section 3.4), `loss` their gains. `summed-updates` is not fused here: the
    loop calls this for each model alone.
    """
    if fusion == "logit":
        logits = logits.mean(0, keepdim=True)
    odds = log_odds(logits, labels)
    if goal == "targeted":
        sign, value = 1, logsigmoid(odds)
    elif objective == "log(1-p)":
        sign, value = 1, logsigmoid(-odds)
    else:
        sign, value = -1, logsigmoid(odds)
    if fusion == "probability":
        return sign * (value.logsumexp(0) - math.log(len(logits)))
    return sign * value.mean(0)


def per_model(fusion: Fusion) -> bool:
    """Whether every source model has a gradient, a momentum and a step of its own (Liu et al. 2017, section 5)."""
    return fusion == "summed-updates"


def image_gradient(total: Tensor, images: Tensor) -> Tensor:
    """d total / d images, for the image alone: no parameter has a gradient."""
    (gradient,) = torch.autograd.grad(total, images)
    return gradient
