"""The gradient of an image: over source models and views, in passes that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from study.attacks.objective import gain, per_model
from study.attacks.recipe import Attack, Goal, Penalty
from study.attacks.views import Views
from study.errors import StudyError
from study.reproducibility.numerics import Precision

Logits = Callable[[Tensor], Tensor]
"""A source model: float pixels (N, C, H, W) in 0..255 -> logits (N, classes), differentiable in the pixels."""


@dataclass(frozen=True)
class Group:
    """Source models that are climbed together, and their weights; `share` is that of the group in the whole update."""

    models: tuple[Logits, ...]
    weights: tuple[float, ...]
    share: float


def groups(models: Sequence[Logits], weights: Sequence[float], attack: Attack) -> list[Group]:
    """All models together, or each alone where updates are summed."""
    if per_model(attack.fusion):
        return [Group((model,), (1.0,), weight) for model, weight in zip(models, weights, strict=True)]
    return [Group(tuple(models), tuple(weights), 1.0)]


def together(images: int, room: int) -> int:
    """Views of each of so many images that are evaluated in one pass."""
    return max(1, room // images)


def largest_pass(images: int, copies: int, room: int) -> int:
    """Images in the largest pass for so many views of each of so many images."""
    return min(room, images * min(copies, together(images, room)))


class Gradients:
    """Image gradients of one batch. Parameters have none, and nothing of a graph is kept between calls.

    `room` is how many images one pass may have: more than the batch only where an attack takes several views, and then
    whole batches of them, always as many and summed in the same order. It is halved when the device runs out of memory,
    and stays so; halved, it changes rounding as another batch size does.
    """

    def __init__(
        self, attack: Attack, goal: Goal, labels: Tensor, views: Views, *, room: int, precision: Precision = "float32"
    ) -> None:
        self._attack = attack
        self._goal: Goal = goal
        self._labels = labels
        self._views = views
        self._precision = precision
        self.room = room

    def of(self, group: Group, image: Tensor, step: int, sample: int = 0) -> Tensor:
        """The mean gradient over all views of `image`, float (N, C, H, W); `sample` numbers points within a step.

        Raises StudyError where not even one image fits into memory.
        """
        copies = self._attack.copies
        total: Tensor | None = None
        first = 0
        while first < copies:
            these = range(first, min(copies, first + together(len(image), self.room)))
            part = self._try(group, image, step, [sample * copies + copy for copy in these])
            if part is None:
                self._halve()
                continue
            total = part if total is None else total.add_(part)
            first = these.stop
        assert total is not None, "an image has a view"
        return total / copies if copies > 1 else total

    def _try(self, group: Group, image: Tensor, step: int, copies: Sequence[int]) -> Tensor | None:
        """The summed gradient over `copies`; None where memory ran out."""
        try:
            leaf = image.detach().requires_grad_(True)
            views = [self._views.make(leaf, step, copy) for copy in copies]
            stacked = views[0] if len(views) == 1 else torch.cat(views)
            upstream = self._upstream(group, stacked.detach(), self._labels.repeat(len(views)))
            if stacked is leaf:
                # A CUDA graph writes the next gradient to where this one lies.
                return upstream.clone() if upstream.is_cuda else upstream
            (through,) = torch.autograd.grad(stacked, leaf, upstream)
            return through
        except torch.OutOfMemoryError:
            return None

    def _upstream(self, group: Group, seen: Tensor, labels: Tensor) -> Tensor:
        """The gradient at what the models see, `room` images at a time."""
        starts = range(0, len(seen), self.room)
        parts = [self._pass(group, seen[at : at + self.room], labels[at : at + self.room]) for at in starts]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _pass(self, group: Group, seen: Tensor, labels: Tensor) -> Tensor:
        seen = seen.requires_grad_(True)
        attack = self._attack
        fusion = "probability" if per_model(attack.fusion) else attack.fusion
        with torch.autocast(seen.device.type, torch.bfloat16, enabled=self._precision == "bfloat16"):
            found = [model(seen) for model in group.models]
        logits = torch.stack([one.float() if one.dtype == torch.bfloat16 else one for one in found])
        gains = gain(logits, labels, goal=self._goal, objective=attack.objective, fusion=fusion, weights=group.weights)
        (gradient,) = torch.autograd.grad(gains.sum(), seen)
        return gradient

    def _halve(self) -> None:
        if self.room == 1:
            raise StudyError(
                "the device has not enough memory for the gradient of a single image",
                todo="use a device with more memory, fewer models in one ensemble, or a smaller images.size",
            )
        self.room //= 2
        if self._labels.is_cuda:
            torch.cuda.empty_cache()


def penalty_gradient(delta: Tensor, penalty: Penalty) -> Tensor:
    """The gradient of -below ReLU(rmsd - d) - above ReLU(d - rmsd) at `delta`, d its RMSD; 0 where it is not moved."""
    distance = delta.square().mean((1, 2, 3), keepdim=True).sqrt()
    slope = torch.where(distance < penalty.rmsd, penalty.below, 0.0)
    slope = torch.where(distance > penalty.rmsd, -penalty.above, slope)
    return slope * delta / (delta[0].numel() * torch.where(distance > 0, distance, 1))
