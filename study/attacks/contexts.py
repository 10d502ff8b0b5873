"""What components are given: images to mix in, random numbers, and what they may ask for at a view, a step, a pass.

Tensors of images are float32 (N, C, H, W), in pixel values 0..255. `study.attacks.kinds` has all names of this module
too: whoever writes a component imports from there.
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
    """Copies on devices, and what images of some labels may be mixed with: made once."""

    def taken(self, places: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the images at `places` (N,), on their device: (N, C, H, W)."""
        return self._on(places.device).index_select(0, places).to(dtype)

    def of_other_labels(self, labels: NDArray[np.int64], words: Tensor) -> Tensor:
        """Return the place (N,) of an image of another label for each of `labels` (N,), chosen by `words` (N,).

        If there is none, it is any image.
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
        """For each label the places of images with other labels (N, P), and their number (N,)."""
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

    `stream` tells several draws of one component apart.
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
    """Draws of one component at one step and one number of a copy, point or update within it."""

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
    """What a view is given beside the image: the number of the copy (from 0) among its own copies, draws, labels.

    `true` and `wanted` (N,) are the true labels and those of the objective. `origin` is the clean image; `step` counts
    from 0; `epsilon` is the budget's L-infinity norm, if it has one. `gradient(view)` is the gradient of the loss at a
    view (N, C, H, W), without the views that follow; a view that asks for it says so in `inner_gradients`.
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
        """Return the gradient at `image`, float (N, C, H, W). `sample` numbers the places of a step: views draw anew.

        `moved` is `image` minus the clean image, if the caller has it exactly.
        """
        ...


def _no_losses() -> Tensor:
    raise LookupError("no gradient was asked for yet")


@dataclass
class StepContext:
    """One step of one group of source models.

    `origin` is the clean image, `delta` the perturbation before the step; `size` is the length of the step in pixel
    values, a number or (N, 1, 1, 1); `epsilon` is the budget's L-infinity norm, if it has one; `momentum` is the
    accumulated update of the last step, None at the first and without momentum, and `decay` its factor. `first` has the
    finished images of the attack's first stage, if it has one. `losses()` is the loss (N,) at the last gradient that
    was asked for, as a mean over its views. `pool` has the images to mix in, if a component declares `others`.
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
        """The draws of `component` at this step; `number` tells several draws at one step apart."""
        return StepDraws(self.streams, component.stream, str(self.origin.device), self.step, number)


Inner = Callable[["Tensor"], "Tensor"]
"""A perturbation (N, C, H, W) -> the gradient there, by the point rules that stand further inside."""


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
    """The first stage's images (N, C, H, W) at its checkpoints, and the finished ones."""
    pool: Pool | None
    """The other images, if a component declares `others`."""
    wanted: NDArray[np.int64]
    """`labels`, on the host: reading a tensor of a GPU would wait for it."""

    @property
    def draws(self) -> Draws:
        """Draws of the objective; every model has its own."""
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

        All images of an attack run get the same numbers, in all batches: for weights that are drawn for a step.
        `fixed` draws are the same at every step and copy too: for what is drawn once for the whole attack.
        """
        ...

    def of_images(self, values: Tensor) -> Tensor:
        """Return, for every row of the pass, the row of `values` (N, …) that belongs to its image."""
        ...

    @property
    def origin(self) -> Tensor:
        """The clean images of the batch, float (N, C, H, W): `of_images(origin)` are those of the rows."""
        ...

    @property
    def batch(self) -> int:
        """Number of the batch, from 0: what a change has computed for one batch does not hold for the next."""
        ...

    @property
    def step(self) -> int:
        """Number of the step, from 0; -1 in the preparing pass of an objective of features."""
        ...

    @property
    def copy(self) -> int:
        """Number of the first copy in the pass, from 0: an attack without views and neighbours has one a step."""
        ...

    @property
    def pool(self) -> Pool | None:
        """The images to mix in, if a component declares `others`."""
        ...


@dataclass
class ProgramContext:
    """What a program is given: one batch of clean images, and everything that the loop itself uses.

    `points` are the (steps, budget) at which targets see the images; `size` is the recipe's length of a step.
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

    `models` are numbers of source models. `labels` (N,) take the place of the objective's labels; an objective of
    features keeps what it has prepared for its own.
    """
    forward: Callable[[Tensor, int], Tensor]
    """(image, number of a source model) -> logits (N, classes), without gradient."""
    project: Callable[[Tensor], Tensor]
    streams: Streams
    models: int = 1
    loop: Callable[[Tensor | None], list[Tensor]] = field(default=lambda start: [])
    """Run the attack's other components from a perturbation (None: their own start); return one delta a point."""

    def draws(self, component: Component, step: int = 0, number: int = 0) -> Draws:
        """The draws of `component` at a step; `number` tells several draws at one step apart."""
        return StepDraws(self.streams, component.stream, str(self.origin.device), step, number)
