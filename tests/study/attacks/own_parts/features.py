"""An objective of features: away from the clean image's features at a stage of the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch

from study.attacks.kinds import FeatureObjective, Goal, PreparingSource
from study.models.layers.catalogue import layers_of


class Away(FeatureObjective):
    """The squared distance to the clean features, at the stage that is `depth` of the way through the network."""

    name: ClassVar[str] = "away"

    depth: float = 0.5

    def layers(self, network: torch.nn.Module) -> Sequence[str]:
        return [layers_of(network).stage(self.depth)]

    def prepare(self, source: PreparingSource) -> Mapping[str, torch.Tensor]:
        return source.features(source.origin)

    def loss(
        self,
        features: Mapping[str, torch.Tensor],
        prepared: Mapping[str, torch.Tensor],
        logits: torch.Tensor,
        labels: torch.Tensor,
        goal: Goal,
    ) -> torch.Tensor:
        (name,) = features
        away = (features[name] - prepared[name]).flatten(1).square().mean(1)
        # At the clean image the distance has no gradient: cross-entropy leads the first step.
        return away + torch.nn.functional.cross_entropy(logits, labels, reduction="none")
