"""Functions that translate the layer names of a spec into layers of a network, for objectives of features."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from study.errors import StudyError

if TYPE_CHECKING:
    from torch import Tensor, nn

Layer = Annotated[str, Field(min_length=1, max_length=200)]
"""One layer in a spec: `authors`, `middle`, `stage 2`, `depth 0.75`, or a layer's own name. `layer_of` explains them.
"""

LayerSet = Literal["blocks", "stages"] | Annotated[tuple[Layer, ...], Field(strict=False, min_length=1)]
"""Several layers in a spec: `blocks`, `stages`, or a list of layers. `layers_in` explains these values."""

_STAGE = re.compile(r"stage (\d+)")
_DEPTH = re.compile(r"depth (\d*\.?\d+)")


def layer_of(network: nn.Module, layer: str, method: str) -> str:
    """Return the name, in `network`, of the layer that `layer` describes.

    - `authors`: the layer that the authors of `method` chose for this network, or the middle layer if they chose none;
    - `middle`: the end of the middle stage;
    - `stage 2`: the end of the second stage;
    - `depth 0.75`: the end of the stage at this relative depth: of n stages, the stage with the number ceil(0.75 n);
    - any other text: the name of a layer, which is returned without a check.

    Raises StudyError if the network's stages are not known, if it has no such stage, or if the depth is 0 or above 1.
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
                todo="correct this layer in the attack",
            )
        return stages[number - 1]
    return layer


def layers_in(network: nn.Module, chosen: str | tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the layers of `network` that `chosen` selects.

    - `blocks`: the residual blocks, or the layers of a DenseNet's blocks. If the network has no such blocks, `blocks`
      are all activations that are modules. If it has no such modules either, `blocks` are the ends of the stages;
    - `stages`: the ends of the stages;
    - a list: the layer that `layer_of` returns for each entry, in the order of the list.

    Blocks, activations and stages are in the order of the network. Raises StudyError if the blocks or stages of the
    network are not known.
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
    """Return the axis of the channels of `features`.

    The axis is 1 for (N, C, H, W) and (N, C). It is the last axis for (N, H, W, C) and for tokens (N, T, C). Images are
    square. If features have four axes, the channels are therefore last if axes 1 and 2 have equal lengths, and axes 2
    and 3 do not.
    """
    shape = features.shape
    if len(shape) == 4:
        return 3 if shape[1] == shape[2] != shape[3] else 1
    return -1 if len(shape) == 3 else 1
