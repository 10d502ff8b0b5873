"""Zoos of networks. Each zoo is a module with the functions of the protocol `Zoo`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import nn

from study.models.classifier import Mode, Preprocessing
from study.models.zoos import pretrainedmodels, study, timm, torchvision


class Zoo(Protocol):
    """The functions that the module of a zoo has. `tag` is the name of weights of the zoo; None for other weights."""

    def networks(self) -> Sequence[str]:
        """Return the names of the zoo's networks, without tags."""

    def renamed(self, network: str) -> str | None:
        """Return the new name, often with a tag, of a network that the zoo has renamed; None for all other networks."""

    def tags(self, network: str) -> Sequence[str]:
        """Return the names of a network's weights."""

    def outputs(self, network: str, tag: str) -> int:
        """Return the number of classes of the weights `tag`."""

    def headless(self, network: str) -> bool:
        """Return whether the network has no classification head by default.

        Such a network ends in features if it is built without the zoo's weights and without a number of classes.
        """

    def refuse(self, network: str, tag: str) -> None:
        """Raise StudyError for weights that are known to be unavailable or ambiguous."""

    def defaults(self, network: str, classes: int | None) -> dict[str, Any]:
        """Return the arguments that `build` needs for a network without the zoo's weights.

        With these arguments, the network has the same architecture as with the zoo's weights. `classes` is the number
        of outputs; None keeps the zoo's default.
        """

    def build(self, network: str, tag: str | None, arguments: Mapping[str, Any]) -> nn.Module:
        """Build the network, and load the weights `tag` if `tag` is not None."""

    def preprocessing(self, network: str, tag: str | None, built: nn.Module) -> Preprocessing:
        """Return the preprocessing that the zoo records for the network `built`."""

    def native(self, network: str, tag: str | None, built: nn.Module, size: int) -> tuple[int, Mode]:
        """Return how the zoo resizes images before it crops them to `size` pixels: the side in pixels, and the mode.

        `classifier.Native` explains the modes.
        """


ZOOS: dict[str, Zoo] = {
    "torchvision": torchvision,
    "timm": timm,
    "pretrainedmodels": pretrainedmodels,
    "study": study,
}
