"""Find the layers that a loss of features reads, from their names in a spec."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from study.errors import StudyError

if TYPE_CHECKING:
    from torch import Tensor, nn

Layer = Annotated[str, Field(min_length=1, max_length=200)]
"""`authors`, `middle`, `stage 2`, `depth 0.75`, or a layer's own name such as `layer2.3`."""

LayerSet = Literal["blocks", "stages"] | Annotated[tuple[Layer, ...], Field(strict=False, min_length=1)]
"""`blocks`, `stages`, or a list of layers."""

_STAGE = re.compile(r"stage (\d+)")
_DEPTH = re.compile(r"depth (\d*\.?\d+)")


def layer_of(network: nn.Module, layer: str, method: str) -> str:
    """Return the name of one layer of `network`.

    - `authors`: the layer that the authors of `method` chose for this network; the middle one if they chose none;
    - `middle`: the end of the middle stage;
    - `stage 2`: the end of the second stage;
    - `depth 0.75`: the end of the stage at this relative depth: stage number ceil(0.75 n) of n;
    - any other text: the name of a layer, which is looked up when the network runs.

    Raises StudyError if the network's stages are not known, if it has fewer stages, or for a depth above 1.
    """
    from study.models.layers.catalogue import layers_of

    known = layers_of(network)
    if layer == "authors":
        try:
            return known.of_paper(method)
        except StudyError:
            return known.middle
    if layer == "middle":
        return known.middle
    if found := _DEPTH.fullmatch(layer):
        return known.stage(float(found[1]))
    if found := _STAGE.fullmatch(layer):
        number, stages = int(found[1]), known.stages
        if not 0 < number <= len(stages):
            raise StudyError(
                f"this {type(network).__name__} ({known.family}) has no stage {number}",
                accepted=f"stage 1 to stage {len(stages)}",
                todo="correct the attack's `layer`",
            )
        return stages[number - 1]
    return layer


def layers_in(network: nn.Module, chosen: str | tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the layers of `network` that `chosen` selects, in the order of the network.

    - `blocks`: the residual blocks, or the layers of a DenseNet's blocks. In a network without such blocks, the
      activations that are modules; in a network without such modules, the ends of the stages;
    - `stages`: the ends of the stages;
    - a list: each entry as in `layer_of`.

    Raises StudyError if the network's blocks or stages are not known.
    """
    from study.models.layers.catalogue import layers_of

    known = layers_of(network)
    if isinstance(chosen, tuple):
        return tuple(layer_of(network, one, "") for one in chosen)
    if chosen == "stages":
        return known.stages
    blocks = tuple(dict.fromkeys(one.block for one in known.blocks))
    return blocks or tuple(one.name for one in known.activations) or known.stages


def channel_axis(features: Tensor) -> int:
    """The axis of the channels: 1 for (N, C, H, W) and (N, C), the last axis for (N, H, W, C) and for tokens (N, T, C).

    Images are square. Features with four axes therefore have the channels last if axes 1 and 2 have equal lengths, and
    axes 2 and 3 do not.
    """
    shape = features.shape
    if len(shape) == 4:
        return 3 if shape[1] == shape[2] != shape[3] else 1
    return -1 if len(shape) == 3 else 1
