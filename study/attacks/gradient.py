"""The gradient of the loss at an image, over all source models and views.

It is computed in passes that fit into memory.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from study.attacks.assembly import Assembly
from study.attacks.kinds import FeatureObjective, Goal
from study.attacks.passes import Logits, PassRows, RunningPass, SourceGroup, forward, full, module_of, views_per_pass
from study.attacks.views import Views
from study.models.device_errors import OutOfMemory, attempt, halved
from study.models.features import captured
from study.reproducibility import numerics
from study.reproducibility.numerics import Precision
from study.reproducibility.rng import Streams


@dataclass
class BatchGradients:
    """The gradients of one batch of images.

    Model parameters get no gradient, and no autograd graph is kept after a call. A pass holds at most `max_pass_images`
    images. Only if one loss depends on all views may a pass exceed this limit: it then holds one image with all its
    views. A pass is larger than the batch only if the attack has several views. The numbers of images and views in the
    passes depend only on the settings, and gradients are summed in a constant order. If the device runs out of memory,
    `max_pass_images` is halved for the rest of the attack. This changes rounding, as another batch size does.
    """

    assembly: Assembly
    goal: Goal
    labels: Tensor
    views: Views
    streams: Streams
    origin: Tensor
    max_pass_images: int
    precision: Precision = "float32"
    running: RunningPass | None = None
    common: Streams | None = None
    """The random numbers that are the same for all images of the attack run."""
    prepared: dict[int, Mapping[str, Tensor]] = field(default_factory=dict)
    """The tensors that an objective of features has prepared, by Python's `id` of the source model."""
    layers: dict[int, Sequence[str]] = field(default_factory=dict)
    """The names of the layers that the objective reads, by Python's `id` of the source model.

    They are looked up once, not in every pass.
    """
    losses: Tensor | None = None
    _passed: list[Tensor] = field(default_factory=list)

    def of(self, group: SourceGroup, image: Tensor, step: int, sample: int = 0) -> Tensor:
        """Return the gradient of the loss over all views of `image`, float (N, C, H, W).

        The gradient is the mean of the gradients at the views, or the gradient of a single loss that depends on all
        views. `sample` is the index of this gradient among the gradients of the step. Raises StudyError if the memory
        does not suffice for a single image.
        """
        copies = self.assembly.copies
        if self.assembly.together and copies > 1:
            return self._of_all_copies(group, image, step, range(sample * copies, (sample + 1) * copies))
        total: Tensor | None = None
        losses: list[Tensor] = []
        leaf = self._leaf(image)
        first = 0
        while first < copies:
            together = 1 if self.assembly.alone else views_per_pass(len(image), self.max_pass_images)
            these = range(first, min(copies, first + together))
            numbers = [sample * copies + copy for copy in these]
            part = attempt(functools.partial(self._summed, group, leaf, step, numbers))
            if isinstance(part, OutOfMemory):
                self._halve(part)
                continue
            total = part if total is None else total.add_(part)
            losses += self._passed
            first = these.stop
        assert total is not None, "an image has a view"
        self.losses = torch.cat(losses).view(copies, -1).mean(0)
        return total / copies if copies > 1 else total

    @contextlib.contextmanager
    def for_labels(self, labels: Tensor | None) -> Iterator[None]:
        """Take the loss for `labels` (N,) within the `with` block; None stands for the attack's own labels."""
        own = self.labels
        self.labels = own if labels is None else labels
        try:
            yield
        finally:
            self.labels = own

    def _summed(self, group: SourceGroup, leaf: Tensor, step: int, copies: Sequence[int]) -> Tensor:
        """Return the sum of the gradients at the copies of `leaf` with the indices `copies`, (N, C, H, W)."""
        views = [self._view(group, leaf, step, copy) for copy in copies]
        stacked = views[0] if len(views) == 1 else torch.cat(views)
        if self.running is not None:
            self.running.begin(step, copies)
        self._passed = []
        upstream = self._upstream(group, stacked.detach(), self.labels.repeat(len(views)))
        if stacked is leaf:
            return upstream
        (through,) = torch.autograd.grad(stacked, leaf, upstream)
        return through

    def _leaf(self, image: Tensor) -> Tensor:
        """Return `image` as the tensor from which views are made. Most views read a contiguous image faster."""
        image = image.detach()
        if self.assembly.views:
            image = image.contiguous()
        return image.requires_grad_(True)

    def _view(self, group: SourceGroup, leaf: Tensor, step: int, copy: int) -> Tensor:
        """Return the copy of `leaf` with the index `copy`, (N, C, H, W).

        The views that make the copy can ask for gradients at other images.
        """

        def gradient(view: Tensor) -> Tensor:
            if self.running is not None:
                self.running.begin(step, (copy,))
            return self._upstream(group, view.detach(), self.labels)

        return self.views.make(leaf, step, copy, gradient)

    def _of_all_copies(self, group: SourceGroup, image: Tensor, step: int, copies: Sequence[int]) -> Tensor:
        """Return the gradient of one loss that depends on all `copies`, such as the loss of their mean logits.

        A pass holds all copies of an image. If the device runs out of memory, the computation is repeated with smaller
        passes.
        """
        while True:
            found = attempt(functools.partial(self._in_common, group, image, step, copies))
            if not isinstance(found, OutOfMemory):
                return found
            if self.max_pass_images <= len(copies):
                # This pass had one image with all its copies, and cannot be smaller. At a limit of 1, `_halve` raises.
                self.max_pass_images = 1
            self._halve(found)

    def _in_common(self, group: SourceGroup, image: Tensor, step: int, copies: Sequence[int]) -> Tensor:
        leaf = self._leaf(image)
        stacked = torch.cat([self._view(group, leaf, step, copy) for copy in copies])
        if self.running is not None:
            self.running.begin(step, copies)
        upstream = torch.empty_like(stacked)
        self._passed = []
        # All passes hold the same number of images, so that the position of an image in the batch changes no rounding.
        together = max(1, min(len(image), self.max_pass_images // len(copies)))
        while len(image) % together:
            together -= 1
        for first in range(0, len(image), together):
            images = range(first, first + together)
            rows = PassRows(tuple(at * len(image) + one for at in range(len(copies)) for one in images))
            if self.running is not None:
                self.running.cut(rows)
            labels = self.labels[images.start : images.stop]
            found = self._pass(group, rows.of(stacked.detach()), labels, rows)
            upstream[rows.index(upstream.device)] = found
        self.losses = torch.cat(self._passed)
        (through,) = torch.autograd.grad(stacked, leaf, upstream)
        return through

    def _upstream(self, group: SourceGroup, seen: Tensor, labels: Tensor) -> Tensor:
        """Return the gradient of the loss at the models' input `seen`, for `max_pass_images` images at a time."""
        size = self.max_pass_images
        parts = []
        for at in range(0, len(seen), size):
            rows = PassRows(range(at, min(len(seen), at + size)))
            if self.running is not None:
                self.running.cut(rows)
            parts.append(self._pass(group, rows.of(seen), rows.of(labels), rows))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _pass(self, group: SourceGroup, seen: Tensor, labels: Tensor, rows: PassRows) -> Tensor:
        """Return the gradient of the loss at `seen`, the images (or copies of images) of one pass.

        `labels` has one label for each image. If `seen` has more rows than `labels`, it has several copies of each
        image, and all copies of an image have one common loss. `rows` says which rows of all copies `seen`
        holds.
        """
        seen = seen.requires_grad_(True)
        objective = self.assembly.objective
        of_images, batch = rows.first(len(labels)), len(self.labels)
        with numerics.network_pass(self.precision, seen.device.type):
            if isinstance(objective, FeatureObjective):
                losses = self._feature_losses(objective, group, seen, labels, rows)
                stacked = torch.stack(losses)
                loss = (group.shares(of_images, batch, stacked) * stacked).sum(0)
            else:
                logits = torch.stack([self._forward(model, seen) for model in group.models])
                if logits.shape[1] > len(labels):
                    logits = logits.reshape(len(logits), -1, len(labels), logits.shape[-1]).mean(1)
                shares = group.shares(of_images, batch, logits)
                loss = self.assembly.ensemble.loss(objective, logits, shares, labels, self.goal)
            (gradient,) = torch.autograd.grad(loss.sum(), seen)
        self._passed.append(loss.detach())
        return gradient

    def _forward(self, model: Logits, seen: Tensor) -> Tensor:
        """Return the logits of one model. They are in float32 even if the model computes in another precision."""
        return forward(model, seen, self.precision)

    def _feature_losses(
        self, objective: FeatureObjective, group: SourceGroup, seen: Tensor, labels: Tensor, rows: PassRows
    ) -> list[Tensor]:
        found = []
        places = rows.first(len(labels)).index(seen.device) % len(self.labels)
        for model in group.models:
            with captured(module_of(model), self.layers[id(model)]) as features:
                logits = self._forward(model, seen)
            prepared = {name: one[places] for name, one in self.prepared[id(model)].items()}
            kept = {name: full(one) for name, one in features.items()}
            if objective.together:
                kept = {name: one.reshape(-1, len(labels), *one.shape[1:]) for name, one in kept.items()}
                logits = logits.reshape(-1, len(labels), logits.shape[-1])
            found.append(objective.loss(kept, prepared, logits, labels, self.goal))
        return found

    def last_losses(self) -> Tensor:
        """Return the loss (N,) at the image of the last gradient, as a mean over the views. It carries no gradient."""
        assert self.losses is not None, "a gradient was asked for"
        return self.losses

    def logits(self, model: Logits, image: Tensor, step: int) -> Tensor:
        """Return the logits (N, classes) of one model at `image`, without views and without a gradient."""
        parts = []
        with torch.no_grad(), numerics.network_pass(self.precision, image.device.type):
            for at in range(0, len(image), self.max_pass_images):
                if self.running is not None:
                    self.running.begin(step, (0,))
                    self.running.cut(PassRows(range(at, min(len(image), at + self.max_pass_images))))
                parts.append(self._forward(model, image[at : at + self.max_pass_images]))
        return torch.cat(parts)

    def _halve(self, shortage: OutOfMemory) -> None:
        self.max_pass_images = halved(self.max_pass_images, shortage, "the gradient of a single image")
