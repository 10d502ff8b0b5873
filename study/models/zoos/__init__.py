"""Zoos of networks, each a module of functions with the same interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import nn

from study.models.classifier import Mode, Preprocessing
from study.models.zoos import pretrainedmodels, study, timm, torchvision


class Zoo(Protocol):
    """The functions of each module here. A `tag` names the zoo's weights; None means random weights or a file."""

    def networks(self) -> Sequence[str]:
        """The names of the zoo's networks, without tags."""

    def renamed(self, network: str) -> str | None:
        """The new name, with a tag, of a network that the zoo has renamed; None for other names."""

    def tags(self, network: str) -> Sequence[str]:
        """The names of a network's weights."""

    def outputs(self, network: str, tag: str) -> int:
        """The number of classes of these weights."""

    def headless(self, network: str) -> bool:
        """Whether the network ends in features if it gets neither the zoo's weights nor a number of classes."""

    def refuse(self, network: str, tag: str) -> None:
        """Raise StudyError for weights that are known to be unavailable or ambiguous."""

    def defaults(self, network: str, classes: int | None) -> dict[str, Any]:
        """Arguments that give a network without the zoo's weights the architecture that belongs to these weights.

        `classes` is the number of outputs; None keeps the zoo's default.
        """

    def build(self, network: str, tag: str | None, arguments: Mapping[str, Any]) -> nn.Module:
        """Build the network; load the weights `tag` if it is not None."""

    def preprocessing(self, network: str, tag: str | None, built: nn.Module) -> Preprocessing:
        """The zoo's own record of the network's input."""

    def native(self, network: str, tag: str | None, built: nn.Module, size: int) -> tuple[int, Mode]:
        """The side to which the zoo resizes before it crops to `size` pixels, and its mode; see `classifier.Native`."""


ZOOS: dict[str, Zoo] = {
    "torchvision": torchvision,
    "timm": timm,
    "pretrainedmodels": pretrainedmodels,
    "study": study,
}
