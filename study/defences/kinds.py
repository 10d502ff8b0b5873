"""The kinds of defences: base classes with the methods that a defence defines, and the arguments of these methods.

A defence is a stage of a target's `transform`: it acts on images before the target gets them. Defences are registered
like the components of an attack. A user's own file may also define a defence. Tensors of images are float32
(N, C, H, W), in pixel values 0..255, on the target's device.

The result of an image must not depend on the other images of the batch, or on the size of the batch. Therefore a
defence takes random numbers only from `DefenceContext.draws`, where they depend on the image's id.
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
"""A string `file:<path>`: the path of a file with a state dict, in the format of safetensors or torch."""


@dataclass(frozen=True)
class DefenceContext:
    """What a defence gets in addition to the images of one forward pass.

    `network` is the network of the defence in eval mode, on the device of the images; None for a defence without a
    network. `streams` are the random numbers of the images, and `name` is the purpose under which the defence draws
    from `streams`. `device` is the device of the images.
    """

    network: nn.Module | None
    streams: Streams
    name: str
    device: str

    def draws(self, number: int = 0) -> Draws:
        """Return the source of random numbers for the images of this pass.

        A defence that draws several times passes a different `number` each time, such as the step of a sampler.
        """
        return StepDraws(self.streams, self.name, self.device, 0, number)


class Defence(Component):
    """A change of the images that a target gets, or a rule that combines several predictions of the target into one."""

    kind: ClassVar[str] = "defence"
    channels: ClassVar[int | None] = None
    """The number of channels that images must have, 1 or 3; None for any number."""

    def network(self) -> nn.Module | None:
        """Return a new network of the defence, without weights from a file; None if the defence has no network."""
        return None

    @property
    def weights_file(self) -> Path | None:
        """The path of the network's weights file, from the parameter `weights`; None if `weights` is absent."""
        given = getattr(self, "weights", None)
        return None if given is None else Path(str(given).removeprefix("file:"))

    def renamed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of the weights file that belong to `network`, under their names in `network`.

        The caller removes prefixes that all returned names share, such as `module.`.
        """
        return dict(state)


class Purifier(Defence):
    """A defence that changes the pixels of each image, but not the image's size."""

    def purified(self, images: Tensor, given: DefenceContext) -> Tensor:
        """Return the changed images (N, C, H, W). The caller clips them to 0..255 and rounds them to `uint8`."""
        raise NotImplementedError


class Vote(Defence):
    """A defence that shows the target several versions of each image, and combines the answers into one prediction.

    The versions are float images, which are neither clipped nor rounded. A vote must be the last stage of a transform.
    """

    @property
    def versions(self) -> int:
        """The number of versions of each image."""
        raise NotImplementedError

    def made(self, images: Tensor, given: DefenceContext, number: int) -> Tensor:
        """Return version `number` of each image (N, C, H, W). Numbers start at 0."""
        raise NotImplementedError

    def abstains(self, counts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return, for each image, whether the target abstains, bool (N,).

        `counts` (N, number of labels) has the number of votes for each label. By default, the target never abstains.
        """
        return np.zeros(len(counts), dtype=np.bool_)
