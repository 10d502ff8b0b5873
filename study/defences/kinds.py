"""The kinds of defences: base classes with the methods that a defence defines, and the arguments of these methods.

A defence stands in front of a target as a stage of its `transform`. It is registered like a component of an attack, and
may be defined in a user's own file. Tensors of images are float32 (N, C, H, W), in pixel values 0..255, on the target's
device. Every defence acts on each image of a batch alone, and draws random numbers only from `draws`, which keys them
by image: an image's result must not depend on its neighbours or on the size of the batch.
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
"""`file:<path>`: a file with a state dict, in the format of safetensors or torch."""


@dataclass(frozen=True)
class DefenceContext:
    """What a defence gets in addition to the images of one pass.

    `network` is the network of the defence in eval mode, on the device of the images; None for a defence without a
    network. `name` is the name of the defence's random streams.
    """

    network: nn.Module | None
    streams: Streams
    name: str
    device: str

    def draws(self, number: int = 0) -> Draws:
        """The draws of each image; `number` distinguishes several draws, such as the steps of a sampler."""
        return StepDraws(self.streams, self.name, self.device, 0, number)


class Defence(Component):
    """A change of finished images in front of a target, or a rule that combines several predictions into one."""

    kind: ClassVar[str] = "defence"
    channels: ClassVar[int | None] = None
    """The number of channels that images must have, 1 or 3; None for any number."""

    def network(self) -> nn.Module | None:
        """Build the network of the defence, without weights from a file; None if it has no network."""
        return None

    @property
    def weights_file(self) -> Path | None:
        """The path in the parameter `weights`, `file:<path>`, of the network's weights; None without this parameter."""
        given = getattr(self, "weights", None)
        return None if given is None else Path(str(given).removeprefix("file:"))

    def renamed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of the weights file that belong to `network`, under their names in `network`.

        Prefixes that all names share, such as `module.`, are removed afterwards.
        """
        return dict(state)


class Purifier(Defence):
    """A defence that changes each image, but not its size."""

    def purified(self, images: Tensor, given: DefenceContext) -> Tensor:
        """Return the changed images; they are clipped to 0..255 and rounded to `uint8`."""
        raise NotImplementedError


class Vote(Defence):
    """A defence that shows the target several versions of each image, and combines the answers into one prediction.

    The versions are float images: they are neither clipped nor rounded. A vote must be the last stage of a transform.
    """

    @property
    def versions(self) -> int:
        """The number of versions of each image."""
        raise NotImplementedError

    def made(self, images: Tensor, given: DefenceContext, number: int) -> Tensor:
        """Return version `number`, from 0, of each image."""
        raise NotImplementedError

    def abstains(self, counts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return, for each image, whether the target abstains; `counts` (N, labels) are the votes.

        By default, the target never abstains: the label with the most votes is the answer.
        """
        return np.zeros(len(counts), dtype=np.bool_)
