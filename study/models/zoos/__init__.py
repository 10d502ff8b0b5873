"""Zoos of networks, each a module of functions with the same interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import nn

from study.models.classifier import Mode, Preprocessing
from study.models.zoos import pretrainedmodels, study, timm, torchvision


class Zoo(Protocol):
    """What each module here offers. A `tag` names weights; None stands for weights that are drawn or read elsewhere."""

    def networks(self) -> Sequence[str]:
        """The names of its networks, without tags."""

    def renamed(self, network: str) -> str | None:
        """The present name of a network that the zoo has renamed, with its tag; None for every other name."""

    def tags(self, network: str) -> Sequence[str]:
        """The names of a network's weights."""

    def outputs(self, network: str, tag: str) -> int:
        """How many classes these weights tell apart."""

    def refuse(self, network: str, tag: str) -> None:
        """Raises StudyError where it is known beforehand that weights of this name cannot be had, or should not."""

    def defaults(self, network: str, classes: int | None) -> dict[str, Any]:
        """Arguments that make a network without the zoo's weights the function that it is with them.

        `classes` is the number of outputs, None for the zoo's own.
        """

    def build(self, network: str, tag: str | None, arguments: Mapping[str, Any]) -> nn.Module: ...

    def preprocessing(self, network: str, tag: str | None, built: nn.Module) -> Preprocessing:
        """What the zoo records of the input."""

    def native(self, network: str, tag: str | None, built: nn.Module, size: int) -> tuple[int, Mode]:
        """The side that the zoo resizes to before it crops `size` pixels, and how, see `classifier.Native`."""


ZOOS: dict[str, Zoo] = {
    "torchvision": torchvision,
    "timm": timm,
    "pretrainedmodels": pretrainedmodels,
    "study": study,
}
