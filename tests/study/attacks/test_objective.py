"""Objectives and fusion against the formulas as the papers print them, in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from study.attacks import Attack
from study.attacks.components.objectives import log_odds

LOGITS = 5 * torch.randn(3, 4, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
LABELS = torch.tensor([0, 3, 6, 2])
P = LOGITS.softmax(-1)[:, torch.arange(4), LABELS]
MEAN_LOGIT_P = LOGITS.mean(0).softmax(-1)[torch.arange(4), LABELS]

WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
BEST_OTHER = LOGITS.scatter(-1, LABELS.expand(3, 4).unsqueeze(-1), -np.inf).amax(-1)
OWN = LOGITS[:, torch.arange(4), LABELS]
MEAN_LOG_P = LOGITS.softmax(-1).mean(0).log()
MEAN_LOG_P_OTHER = MEAN_LOG_P.scatter(-1, LABELS.unsqueeze(-1), -np.inf).amax(-1)

PRINTED = {
    ("untargeted", "logit", "loss"): -OWN.mean(0),
    ("targeted", "logit", "logit"): OWN.mean(0),
    ("untargeted", "margin", "loss"): (BEST_OTHER - OWN).mean(0),
    ("targeted", "margin", "loss"): (OWN - BEST_OTHER).mean(0),
    ("untargeted", "margin", "probability"): MEAN_LOG_P_OTHER - MEAN_LOG_P[torch.arange(4), LABELS],
    ("untargeted", "cross-entropy", "probability"): -P.mean(0).log(),
    ("untargeted", "cross-entropy", "logit"): -MEAN_LOGIT_P.log(),
    ("untargeted", "cross-entropy", "loss"): -P.log().mean(0),
    ("untargeted", "log(1-p)", "probability"): (1 - P.mean(0)).log(),
    ("untargeted", "log(1-p)", "logit"): (1 - MEAN_LOGIT_P).log(),
    ("untargeted", "log(1-p)", "loss"): (1 - P).log().mean(0),
    ("targeted", "cross-entropy", "probability"): P.mean(0).log(),
    ("targeted", "cross-entropy", "logit"): MEAN_LOGIT_P.log(),
    ("targeted", "cross-entropy", "loss"): P.log().mean(0),
}


def attack_loss(logits, labels, *, goal, objective, fusion, weights=None):
    """The loss that the loop maximises, for logits (K, N, C)."""
    parts = Attack.model_validate({"objective": objective, "fusion": fusion, "epsilon": 8}).assembly
    shares = torch.tensor(weights or [1 / len(logits)] * len(logits), dtype=logits.dtype)[:, None]
    return parts.ensemble.loss(parts.objective, logits, shares, labels, goal)


@pytest.mark.parametrize("case", PRINTED, ids="-".join)
def test_attack_loss_is_the_printed_formula(case):
    goal, objective, fusion = case
    ours = attack_loss(LOGITS, LABELS, goal=goal, objective=objective, fusion=fusion)
    torch.testing.assert_close(ours, PRINTED[case])


@pytest.mark.parametrize(
    ("fusion", "expected"),
    [
        ("probability", -(WEIGHTS @ P).log()),
        ("loss", -(WEIGHTS @ P.log())),
        ("logit", -(WEIGHTS[:, None, None] * LOGITS).sum(0).log_softmax(-1)[torch.arange(4), LABELS]),
    ],
)
def test_weights_are_those_of_equation_6(fusion, expected):
    given = {"goal": "untargeted", "objective": "cross-entropy", "fusion": fusion, "weights": WEIGHTS.tolist()}
    torch.testing.assert_close(attack_loss(LOGITS, LABELS, **given), expected)


@pytest.mark.parametrize("margin", [-80.0, -30.0, 0.0, 30.0, 80.0])
def test_gradients_keep_their_precision_when_saturated(margin):
    """d log(1-p)/dz = p (q - 1_y): in float32 as exact, relatively, as in float64, however small p is."""
    logits = torch.zeros(1, 1, 5)
    logits[0, 0, 1] = margin
    exact = logits.double()
    for values in (logits, exact):
        values.requires_grad_(True)
    for objective in ("log(1-p)", "cross-entropy"):
        gradients = []
        for values in (logits, exact):
            total = attack_loss(
                values, torch.tensor([1]), goal="untargeted", objective=objective, fusion="probability"
            ).sum()
            gradients.append(torch.autograd.grad(total, values)[0].double().numpy().ravel())
        if np.abs(gradients[1]).max() > 1e-30:
            np.testing.assert_allclose(gradients[0], gradients[1], rtol=1e-5)


def test_log_odds_by_hand():
    assert log_odds(torch.tensor([[[0.0, 1.0, 2.0]]]), torch.tensor([2])).item() == pytest.approx(
        2 - np.log(1 + np.e), abs=1e-6
    )
