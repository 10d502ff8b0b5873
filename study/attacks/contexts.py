"""The arguments of components: images to mix in, random numbers, and the context of a view, a step or a pass.

Tensors of images are float32 (N, C, H, W), in pixel values 0..255. A file with a component imports these names from
`study.attacks.kinds`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from study.attacks.component import Component

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from study.reproducibility.rng import Streams

Goal = Literal["untargeted", "targeted"]
State = dict[str, Any]
"""What a component remembers from step to step, for one batch of images; empty at the first step."""


@dataclass(frozen=True, eq=False)
class Pool:
    """Images that components mix in: `uint8` (P, C, H, W), and their labels (P,)."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    _held: dict[object, tuple[Tensor, ...]] = field(default_factory=dict, repr=False)
    """Cache: copies on devices, and tables of the images that may be mixed with images of given labels."""

    def taken(self, places: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the images with the indices `places` (N,): (N, C, H, W), on the device of `places`."""
        return self._on(places.device).index_select(0, places).to(dtype)

    def of_other_labels(self, labels: NDArray[np.int64], words: Tensor) -> Tensor:
        """Return, for each of `labels` (N,), the index of an image of the pool that has another label.

        The random integers `words` (N,) choose among these images.

        If the pool has no image with another label, any image may be chosen.
        """
        from study.reproducibility.words import below

        table, count = self._others(labels, words.device)
        return table.gather(1, below(words, count)[:, None])[:, 0]

    def _on(self, device: torch.device) -> Tensor:
        from study.devices.copies import uploaded

        if device not in self._held:
            self._held[device] = (uploaded(self.pixels, device),)
        return self._held[device][0]

    def _others(self, labels: NDArray[np.int64], device: torch.device) -> tuple[Tensor, Tensor]:
        """For each label, indices (N, P) that begin with the images of other labels, and the number (N,) of these."""
        from study.devices.copies import uploaded

        key = (labels.tobytes(), device)
        if key not in self._held:
            other = self.labels != labels[:, None]
            other |= ~other.any(1, keepdims=True)
            table = np.argsort(~other, axis=1, kind="stable")
            self._held[key] = (uploaded(table, device), uploaded(other.sum(1), device))
        table_there, count = self._held[key]
        return table_there, count


class Draws(Protocol):
    """Keyed random numbers: they depend on the image, the attack run, the step and the copy, never on the batch.

    `stream` is a name that distinguishes several draws of one component.
    """

    def uniform(self, shape: Sequence[int], stream: str = "") -> Tensor:
        """Return float32 (N, *shape), uniform over (-1, 1)."""
        ...

    def normal(self, shape: Sequence[int], stream: str = "") -> Tensor:
        """Return float32 (N, *shape), standard normal."""
        ...

    def integers(self, count: int, stream: str = "") -> NDArray[np.uint64]:
        """Return uniform 64-bit integers (N, count), on the host."""
        ...

    def words(self, count: int, stream: str = "") -> Tensor:
        """Return the bits of `integers` as int64 (N, count), on the device: see `study.reproducibility.words`."""
        ...


@dataclass(frozen=True)
class StepDraws:
    """Draws of one component at one step. `number` is the index of a copy, point or update within the step."""

    streams: Streams
    name: str
    device: str
    step: int = 0
    number: int = 0

    def uniform(self, shape: Sequence[int], stream: str = "") -> Tensor:
        return self.streams.uniform(shape, self.device, self._purpose(stream), self.step, self.number)

    def normal(self, shape: Sequence[int], stream: str = "") -> Tensor:
        return self.streams.normal(shape, self.device, self._purpose(stream), self.step, self.number)

    def integers(self, count: int, stream: str = "") -> NDArray[np.uint64]:
        return self.streams.integers(count, self._purpose(stream), self.step, self.number)

    def words(self, count: int, stream: str = "") -> Tensor:
        return self.streams.words(count, self.device, self._purpose(stream), self.step, self.number)

    def _purpose(self, stream: str) -> str:
        return f"{self.name}.{stream}" if stream else self.name


@dataclass(frozen=True)
class ViewContext:
    """What a view gets in addition to the image.

    `copy` is the index of the copy, from 0, among the view's own copies. `true` (N,) are the true labels, `wanted` (N,)
    the labels of the objective. `pool` has the images to mix in, if a component declares `others`. `origin` is the
    clean image; `step` counts from 0; `epsilon` is the budget's L-infinity norm, or None. `gradient(view)` returns the
    gradient of the loss at a view (N, C, H, W), without the views that follow. A view that calls it must declare the
    number of calls in `inner_gradients`.
    """

    copy: int
    draws: Draws
    true: NDArray[np.int64]
    wanted: NDArray[np.int64]
    pool: Pool | None
    origin: Tensor
    step: int
    steps: int
    epsilon: float | None
    gradient: Callable[[Tensor], Tensor]


class GradientAt(Protocol):
    """The gradient of the loss at an image, over all views and source models of a group."""

    def __call__(self, image: Tensor, sample: int = 0, moved: Tensor | None = None) -> Tensor:
        """Return the gradient at `image`, float (N, C, H, W).

        `sample` is the index of this place in the step: views draw anew for each place. `moved` is `image` minus the
        clean image, if the caller knows it exactly.
        """
        ...


def _no_losses() -> Tensor:
    raise LookupError("the loss is not known: no gradient has been computed yet")


@dataclass
class StepContext:
    """One step of one group of source models.

    `origin` is the clean image, `delta` the perturbation before the step. `size` is the length of the step in pixel
    values, a number or (N, 1, 1, 1). `epsilon` is the budget's L-infinity norm, or None. `momentum` is the accumulated
    update of the last step, and `decay` its factor; `momentum` is None at the first step and without momentum. `first`
    has the finished images of the attack's first stage, or None. `losses()` returns the loss (N,) at the last gradient
    that was computed, as a mean over its views. `pool` has the images to mix in, if a component declares `others`.
    """

    step: int
    steps: int
    origin: Tensor
    delta: Tensor
    size: float | Tensor
    epsilon: float | None
    gradient: GradientAt
    streams: Streams
    goal: Goal
    project: Callable[[Tensor], Tensor]
    momentum: Tensor | None = None
    decay: float = 0.0
    first: Tensor | None = None
    losses: Callable[[], Tensor] = _no_losses
    pool: Pool | None = None

    def draws(self, component: Component, number: int = 0) -> Draws:
        """The draws of `component` at this step; `number` distinguishes several draws at one step."""
        return StepDraws(self.streams, component.stream, str(self.origin.device), self.step, number)


Inner = Callable[["Tensor"], "Tensor"]
"""A function from a perturbation (N, C, H, W) to the gradient there, by the point rules further inside."""


class PreparingSource(Protocol):
    """A source model and the clean images of a batch, for a preparing pass."""

    origin: Tensor
    labels: Tensor
    goal: Goal
    true: Tensor
    """The true labels (N,); `labels` are those of the objective."""
    first: Tensor | None
    """The finished images (N, C, H, W) of the attack's first stage, if it has one."""
    path: Sequence[Tensor]
    """The images (N, C, H, W) of the first stage at its checkpoints, and then its finished images."""
    pool: Pool | None
    """The images to mix in, if a component declares `others`."""
    wanted: NDArray[np.int64]
    """`labels` as an array on the host: to read a tensor of a GPU, the host would have to wait for the GPU."""

    @property
    def draws(self) -> Draws:
        """Draws of the objective; every model has its own draws."""
        ...

    def features(self, image: Tensor) -> Mapping[str, Tensor]:
        """Return the features (N, …) of `image` by layer, without gradient."""
        ...

    def forward(self, image: Tensor) -> tuple[Mapping[str, Tensor], Tensor]:
        """Return the features (N, …) of `image` by layer and its logits (N, classes), without gradient."""
        ...

    def feature_gradients(self, image: Tensor, loss: Callable[[Tensor], Tensor]) -> Mapping[str, Tensor]:
        """Return the gradients (N, …) of the summed `loss(logits)` (N,) with respect to the features, by layer."""
        ...

    def image_gradient(self, image: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the gradient (N, C, H, W) of the summed `loss(logits)` (N,) with respect to the image."""
        ...


class PassDraws(Protocol):
    """Draws for the rows of the pass that runs, which may hold several copies of each image."""

    def uniform(self, component: Component, shape: Sequence[int], stream: str = "") -> Tensor:
        """Return float32 (rows, *shape), uniform over (-1, 1)."""
        ...

    def normal(self, component: Component, shape: Sequence[int], stream: str = "") -> Tensor:
        """Return float32 (rows, *shape), standard normal."""
        ...

    def integers(self, component: Component, count: int, stream: str = "") -> NDArray[np.uint64]:
        """Return uniform 64-bit integers (rows, count), on the host."""
        ...

    def words(self, component: Component, count: int, stream: str = "") -> Tensor:
        """Return the bits of `integers` as int64 (rows, count), on the device."""
        ...

    def common(self, component: Component, *, fixed: bool = False) -> Draws:
        """Draws that depend on the attack run, the step and the copy, and not on the image: their N is 1.

        All images of an attack run get the same numbers, in all batches. Use these draws for weights that are drawn
        for a step. With `fixed`, the draws are the same at every step and copy too. Use them for values that are drawn
        once for the whole attack.
        """
        ...

    def of_images(self, values: Tensor) -> Tensor:
        """Return, for every row of the pass, the row of `values` (N, …) that belongs to its image."""
        ...

    @property
    def origin(self) -> Tensor:
        """The clean images of the batch, float (N, C, H, W); `of_images(origin)` has one for each row."""
        ...

    @property
    def batch(self) -> int:
        """Index of the batch, from 0. Values that a change caches for one batch are not valid for the next."""
        ...

    @property
    def step(self) -> int:
        """Index of the step, from 0; -1 in the preparing pass of an objective of features."""
        ...

    @property
    def copy(self) -> int:
        """Index of the first copy in the pass, from 0. An attack without views and neighbours has one copy per step."""
        ...

    @property
    def pool(self) -> Pool | None:
        """The images to mix in, if a component declares `others`."""
        ...


@dataclass
class ProgramContext:
    """What a program gets: one batch of clean images, and everything that the loop itself uses.

    `points` are the pairs (number of steps, length of the budget) at which targets see the images. `size` is the length
    of a step in the recipe.
    """

    origin: Tensor
    labels: Tensor
    goal: Goal
    steps: int
    points: Sequence[tuple[int, float | None]]
    size: float | Tensor
    epsilon: float | None
    gradient: Callable[..., Tensor]
    """(image, step=0, sample=0, models=None, labels=None) -> gradient (N, C, H, W).

    `models` are the indices of the source models, which then have equal weights; None means all models with their own
    weights. `labels` (N,) replace the labels of the objective. They do not change tensors that an objective of features
    has prepared.
    """
    forward: Callable[[Tensor, int], Tensor]
    """(image, index of a source model) -> logits (N, classes), without gradient."""
    project: Callable[[Tensor], Tensor]
    streams: Streams
    models: int = 1
    loop: Callable[[Tensor | None], list[Tensor]] = field(default=lambda start: [])
    """Run the loop with the attack's other components from a perturbation, or, if it is None, from the attack's start.
    Return the perturbation at each point."""

    def draws(self, component: Component, step: int = 0, number: int = 0) -> Draws:
        """The draws of `component` at a step; `number` distinguishes several draws at one step."""
        return StepDraws(self.streams, component.stream, str(self.origin.device), step, number)
