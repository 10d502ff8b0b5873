"""Guides: other images of the study, towards whose features an attack moves the features of its images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from study.attacks.components.feature_layers import Layer, layer_of
from study.attacks.components.weighted_features import only
from study.attacks.kinds import FeatureObjective, PreparingSource
from study.devices.copies import uploaded
from study.errors import StudyError

if TYPE_CHECKING:
    from torch import Tensor, nn


class GuidedFeatures(FeatureObjective):
    """The base of objectives that compare the features at one layer with the features of a guide at this layer.

    A guide is an image of the study, drawn from a pool of `pool` images. The guide's features are computed once, before
    the attack. `loss` gets them as the tensor `guide`.
    """

    layer: Layer = "middle"
    pool: Annotated[int, Field(ge=2, le=1000)] = 100

    @property
    def others(self) -> int:
        return self.pool

    def layers(self, network: nn.Module) -> Sequence[str]:
        return [layer_of(network, self.layer, self.name)]

    @property
    def preparing_forwards(self) -> int:
        return 1

    def prepare(self, source: PreparingSource) -> Mapping[str, Tensor]:
        return {"guide": only(source.features(_guides(source, self.name)))}


def _guides(source: PreparingSource, method: str) -> Tensor:
    """Return one guide for each image of the batch, drawn from the pool: (N, C, H, W).

    In a targeted attack, the guide has the image's target label. In an untargeted attack, the guide has any label but
    the image's true label. If the pool has no such image, this function raises StudyError. The error names the
    component `method`.
    """
    pool = source.pool
    assert pool is not None, "an attack with a component that declares `others` has a pool"
    targeted, chosen = source.goal == "targeted", []
    for label, word in zip(source.wanted.tolist(), source.draws.integers(1)[:, 0].tolist(), strict=True):
        fitting = np.flatnonzero((pool.labels == label) == targeted)
        if not len(fitting):
            what = "the target label" if targeted else "a label other than"
            raise StudyError(
                f"none of the {len(pool.labels)} images of the attack's pool has {what} {label}",
                accepted="a pool with images of the target labels" if targeted else "a pool with several labels",
                todo=f"raise the `pool` of `{method}`, "
                + ("choose other target labels, " if targeted else "")
                + "or leave the attack out",
            )
        chosen.append(int(fitting[word % len(fitting)]))
    return pool.taken(uploaded(np.array(chosen), source.origin.device), source.origin.dtype)
