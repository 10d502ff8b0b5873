"""The gradient of the loss at an image: over source models and views, in passes that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from study.attacks.objective import attack_loss, per_model
from study.attacks.recipe import Attack, Goal, Penalty
from study.attacks.views import Views
from study.errors import StudyError
from study.reproducibility.numerics import Precision

Logits = Callable[[Tensor], Tensor]
"""A source model: float pixels (N, C, H, W) in 0..255 -> logits (N, classes), differentiable in the pixels."""


@dataclass(frozen=True)
class SourceGroup:
    """Source models with one common loss, and their weights in it. `share` is the group's weight in the update."""

    models: tuple[Logits, ...]
    weights: tuple[float, ...]
    share: float


def groups(models: Sequence[Logits], weights: Sequence[float], attack: Attack) -> list[SourceGroup]:
    """Return one group with all models, or one group per model if the attack sums updates."""
    if per_model(attack.fusion):
        return [SourceGroup((model,), (1.0,), weight) for model, weight in zip(models, weights, strict=True)]
    return [SourceGroup(tuple(models), tuple(weights), 1.0)]


def views_per_pass(images: int, max_pass_images: int) -> int:
    """Number of views of each image in one pass."""
    return max(1, max_pass_images // images)


def largest_pass(images: int, copies: int, max_pass_images: int) -> int:
    """Number of images in the largest pass over `copies` views of each of `images` images."""
    return min(max_pass_images, images * min(copies, views_per_pass(images, max_pass_images)))


class Gradients:
    """Gradients of one batch of images. Model parameters get no gradient, and no graph outlives a call.

    A pass has at most `max_pass_images` images. It exceeds the batch only for an attack with several views: then it
    holds whole batches of views, always the same number, summed in the same order. If the device runs out of memory,
    `max_pass_images` is halved for the rest of the attack; like another batch size, this changes rounding.
    """

    def __init__(
        self,
        attack: Attack,
        goal: Goal,
        labels: Tensor,
        views: Views,
        *,
        max_pass_images: int,
        precision: Precision = "float32",
    ) -> None:
        self._attack = attack
        self._goal: Goal = goal
        self._labels = labels
        self._views = views
        self._precision = precision
        self.max_pass_images = max_pass_images

    def of(self, group: SourceGroup, image: Tensor, step: int, sample: int = 0) -> Tensor:
        """Return the mean gradient over all views of `image`, float (N, C, H, W). `sample` numbers points in a step.

        Raises StudyError if the memory does not suffice for a single image.
        """
        copies = self._attack.copies
        total: Tensor | None = None
        first = 0
        while first < copies:
            these = range(first, min(copies, first + views_per_pass(len(image), self.max_pass_images)))
            part = self._try(group, image, step, [sample * copies + copy for copy in these])
            if part is None:
                self._halve()
                continue
            total = part if total is None else total.add_(part)
            first = these.stop
        assert total is not None, "an image has a view"
        return total / copies if copies > 1 else total

    def _try(self, group: SourceGroup, image: Tensor, step: int, copies: Sequence[int]) -> Tensor | None:
        """The summed gradient over `copies`; None if the device runs out of memory."""
        try:
            leaf = image.detach().requires_grad_(True)
            views = [self._views.make(leaf, step, copy) for copy in copies]
            stacked = views[0] if len(views) == 1 else torch.cat(views)
            upstream = self._upstream(group, stacked.detach(), self._labels.repeat(len(views)))
            if stacked is leaf:
                # A CUDA graph overwrites this memory with the next gradient.
                return upstream.clone() if upstream.is_cuda else upstream
            (through,) = torch.autograd.grad(stacked, leaf, upstream)
            return through
        except torch.OutOfMemoryError:
            return None

    def _upstream(self, group: SourceGroup, seen: Tensor, labels: Tensor) -> Tensor:
        """The gradient at the models' input, `max_pass_images` images at a time."""
        size = self.max_pass_images
        starts = range(0, len(seen), size)
        parts = [self._pass(group, seen[at : at + size], labels[at : at + size]) for at in starts]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _pass(self, group: SourceGroup, seen: Tensor, labels: Tensor) -> Tensor:
        seen = seen.requires_grad_(True)
        attack = self._attack
        fusion = "probability" if per_model(attack.fusion) else attack.fusion
        with torch.autocast(seen.device.type, torch.bfloat16, enabled=self._precision == "bfloat16"):
            found = [model(seen) for model in group.models]
        logits = torch.stack([one.float() if one.dtype == torch.bfloat16 else one for one in found])
        losses = attack_loss(
            logits, labels, goal=self._goal, objective=attack.objective, fusion=fusion, weights=group.weights
        )
        (gradient,) = torch.autograd.grad(losses.sum(), seen)
        return gradient

    def _halve(self) -> None:
        if self.max_pass_images == 1:
            raise StudyError(
                "the device does not have enough memory for the gradient of a single image",
                todo="use a device with more memory, fewer models in one ensemble, or a smaller images.size",
            )
        self.max_pass_images //= 2
        if self._labels.is_cuda:
            torch.cuda.empty_cache()


def penalty_gradient(delta: Tensor, penalty: Penalty) -> Tensor:
    """Return the gradient of -below ReLU(rmsd - d) - above ReLU(d - rmsd) at `delta` (N, C, H, W), d its RMSD.

    It is 0 at a zero perturbation.
    """
    distance = delta.square().mean((1, 2, 3), keepdim=True).sqrt()
    slope = torch.where(distance < penalty.rmsd, penalty.below, 0.0)
    slope = torch.where(distance > penalty.rmsd, -penalty.above, slope)
    return slope * delta / (delta[0].numel() * torch.where(distance > 0, distance, 1))
