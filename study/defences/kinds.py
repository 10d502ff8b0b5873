"""Defences as components: what each is asked, what it is given, and what it answers.

A defence stands in front of a target as a stage of its `transform`. It is registered as a component of an attack is,
and may lie in a user's own file. Tensors of images are float32 (N, C, H, W), in pixel values 0..255, on the target's
device. Every defence acts on each image of a batch alone, and draws random numbers from `draws` only, which are keyed
by image: an image's result must not depend on its neighbours, nor on the size of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from study.attacks.component import Component
from study.attacks.kinds import Draws, StepDraws

if TYPE_CHECKING:
    from torch import Tensor, nn

    from study.reproducibility.rng import Streams

WeightsFile = Annotated[str, Field(pattern=r"^file:.+")]
"""`file:<path>`: a state dict, .safetensors or torch."""


@dataclass(frozen=True)
class DefenceContext:
    """What a defence is given beside the images of one pass.

    `network` is its own network in eval mode, on the device of the images; None for a defence without one.
    """

    network: nn.Module | None
    streams: Streams
    name: str
    device: str

    def draws(self, number: int = 0) -> Draws:
        """The draws of each image; `number` tells several draws apart, such as the steps of a sampler."""
        return StepDraws(self.streams, self.name, self.device, 0, number)


class Defence(Component):
    """A change of finished images in front of a target, or a rule that makes one prediction of several."""

    kind: ClassVar[str] = "defence"
    channels: ClassVar[int | None] = None
    """The channels that images must have, 1 or 3; None for any."""

    def network(self) -> nn.Module | None:
        """Build the network of the defence, without weights from a file; None if it has no network."""
        return None

    @property
    def weights_file(self) -> Path | None:
        """The file of the network's weights: the parameter `weights`, `file:<path>`; None if there is none."""
        given = getattr(self, "weights", None)
        return None if given is None else Path(str(given).removeprefix("file:"))

    def renamed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of the weights file that belong to `network`, under the names that it gives them.

        Prefixes that all names share, such as `module.`, are removed afterwards.
        """
        return dict(state)


class Purifier(Defence):
    """A defence that changes each image, and leaves its size."""

    def purified(self, images: Tensor, given: DefenceContext) -> Tensor:
        """Return the changed images; they are clipped to 0..255 and rounded to `uint8`."""
        raise NotImplementedError


class Vote(Defence):
    """A defence that shows the target several versions of each image, and makes one prediction of the answers.

    The versions are float images: they are neither clipped nor rounded. It is the last stage of a transform.
    """

    @property
    def versions(self) -> int:
        """The number of versions of each image."""
        raise NotImplementedError

    def made(self, images: Tensor, given: DefenceContext, number: int) -> Tensor:
        """Return version `number`, from 0, of each image."""
        raise NotImplementedError

    def abstains(self, counts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return for each image whether the target gives no answer; `counts` (N, labels) are the votes. By default,
        the label with the most votes is the answer."""
        return np.zeros(len(counts), dtype=np.bool_)
