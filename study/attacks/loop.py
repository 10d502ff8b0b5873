"""The one loop behind every attack: climb the gain, step, project; then finish to 8-bit pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from study.attacks import budget as budgets
from study.attacks.budget import Pixels
from study.attacks.objective import gain, image_gradient, per_model
from study.attacks.recipe import Attack, Goal
from study.attacks.step import Stepper
from study.errors import StudyError
from study.keyed import draws

Logits = Callable[[Tensor], Tensor]
"""A source model: float pixels (N, C, H, W) in 0..255 -> logits (N, classes), differentiable in the pixels."""


@dataclass(frozen=True)
class Crafted:
    """Adversarial images and how far each moved, in pixel values."""

    pixels: Pixels
    rmsd: NDArray[np.float64]
    linf: NDArray[np.float64]
    l2: NDArray[np.float64]
    gradients: int
    """Image gradients computed, over all images and source models."""


def craft(
    models: Sequence[Logits],
    attack: Attack,
    goal: Goal,
    *,
    clean: Pixels,
    labels: NDArray[np.int64],
    images: Sequence[str],
    key: Sequence[object],
    batch: int,
    rmsd: NDArray[np.float64] | None = None,
    device: str = "cpu",
) -> Crafted:
    """Run `attack` on `clean`, `uint8` (N, C, H, W), and return images of the same shape and type.

    `labels` (N,) are true labels for an untargeted goal and wanted labels for a targeted one; `images` are the
    images' ids and `key` names the craft: together they key all randomness. Batches are all of size `batch`, the
    last one padded with copies of its last image, so that an image's result does not depend on its neighbours.
    `rmsd` (N,) gives the budget of every image where the attack's is matched.

    Raises StudyError, naming the images, where a gradient is not finite.
    """
    if attack.budget.matched and rmsd is None:
        raise ValueError("a matched budget needs the RMSD of every image")
    if isinstance(attack.budget.rmsd, float | int):
        rmsd = np.full(len(clean), float(attack.budget.rmsd))
    finished = []
    for start in range(0, len(clean), batch):
        rows = list(range(start, min(start + batch, len(clean))))
        padded = rows + [rows[-1]] * (batch - len(rows))
        delta, finite = _climb(
            models,
            attack,
            goal,
            clean=torch.from_numpy(clean[padded]).to(device),
            labels=torch.from_numpy(labels[padded]).to(device),
            rmsd=None if rmsd is None else torch.from_numpy(rmsd[padded]).to(device, torch.float32),
        )
        moves = delta.to("cpu", memory_format=torch.contiguous_format).numpy()[: len(rows)]
        _refuse_broken([images[row] for row, whole in zip(rows, finite.tolist(), strict=False) if not whole])
        for row, move in zip(rows, moves, strict=True):
            radius = None if rmsd is None else float(rmsd[row])
            ties = draws(move.size if radius is not None else 0, *key, images[row], "rounding")
            finished.append(budgets.finish(clean[row], move, attack.budget, radius, ties))
    pixels = np.stack(finished)
    moved = np.array([budgets.distances(before, after) for before, after in zip(clean, pixels, strict=True)])
    return Crafted(
        pixels=pixels,
        rmsd=moved[:, 0],
        linf=moved[:, 1],
        l2=moved[:, 2],
        gradients=len(clean) * attack.steps * len(models),
    )


def _climb(
    models: Sequence[Logits],
    attack: Attack,
    goal: Goal,
    *,
    clean: Tensor,
    labels: Tensor,
    rmsd: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The perturbation after all steps, float (N, C, H, W), and whether all gradients of an image were finite (N,).

    The last step is left unprojected for `finish`.

    The perturbation, not the image, is the state: then an FGS step has one magnitude to the last bit.
    """
    origin = clean.to(torch.float32, memory_format=torch.channels_last)
    size = _step_size(attack, rmsd)
    groups = [[model] for model in models] if per_model(attack.fusion) else [list(models)]
    fusion = "probability" if per_model(attack.fusion) else attack.fusion
    steppers = [Stepper(attack, size) for _ in groups]
    delta = torch.zeros_like(origin)
    finite = torch.ones(len(origin), dtype=torch.bool, device=origin.device)
    for step in range(attack.steps):
        if step:
            delta = budgets.project(delta, origin, attack.budget, rmsd)
        image = (origin + delta).requires_grad_(True)
        update = torch.zeros_like(origin)
        for group, stepper in zip(groups, steppers, strict=True):
            logits = torch.stack([model(image) for model in group])
            total = gain(logits, labels, goal=goal, objective=attack.objective, fusion=fusion).sum()
            gradient = image_gradient(total, image)
            # Looked at here: the sign of a NaN is 0, which would pass for an image that no step moves.
            finite &= gradient.sum((1, 2, 3)).isfinite()
            update = update + stepper.update(gradient)
        delta = delta + update
    return delta, finite


def _step_size(attack: Attack, rmsd: Tensor | None) -> float | Tensor:
    """One step's length in pixel values: as given, or the budget divided by the number of steps."""
    given = attack.learning_rate if attack.step == "adam" else attack.step_size
    if given is not None:
        return given
    if attack.budget.epsilon is not None:
        return attack.budget.epsilon / attack.steps
    assert rmsd is not None, "the recipe's validator asks for a step size where there is no budget"
    return (rmsd / attack.steps)[:, None, None, None]


def _refuse_broken(images: Sequence[str]) -> None:
    if images:
        raise StudyError(
            f"the gradient of {', '.join(images)} is not finite",
            todo="check the source model's weights and preprocessing; no row of this unit was written",
        )
