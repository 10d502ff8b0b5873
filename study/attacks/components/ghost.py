"""Ghost networks: random weights of skip connections, or dropout of features in networks without skip connections."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from study.attacks.kinds import ForwardChange, PassDraws
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor, nn

    Change = Callable[[str, Tensor], Tensor]


@register
class Ghost(ForwardChange):
    """Ghost networks: in every step, small random changes turn the source model into another network.

    Source: Li et al. 2020, arXiv:1812.03413. In a network with residual blocks, the value of each skip connection is
    multiplied by a random number. This number is uniform in 1 - `spread` .. 1 + `spread`.

    VGG, Inception and DenseNets (whose layers concatenate) have no such skip connections, and get dropout instead.
    At the top level of the network, dropout acts after every activation, max-pooling and block. It sets each value to 0
    with probability `dropout`, and divides the other values by 1 - `dropout`. All numbers are drawn anew for each
    image, step and copy.

    In the paper, each block has one number, which all images share. In the authors' code and in TransferAttack, each
    channel has its own number. `variant: authors` does the same. The authors' readme has a spread of 0.22 for ResNet-50
    v2, and a dropout of 0.006 for Inception v3.
    """

    name: ClassVar[str] = "ghost"
    main: ClassVar[str | None] = "spread"

    spread: Annotated[float, Field(ge=0, le=1)] = 0.22
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.006
    variant: Literal["paper", "authors"] = "paper"

    @contextlib.contextmanager
    def applied(self, models: Mapping[str, nn.Module], draws: PassDraws) -> Iterator[None]:
        from study.models.features import changed_forward
        from study.models.layers.catalogue import layers_of
        from study.models.layers.trunk import trunk_of
        from study.models.skips import changed_skips

        def weigh(stream: str, carried: Tensor) -> Tensor:
            channels = carried.shape[-1 if carried.ndim == 3 else 1]
            drawn = draws.uniform(self, (1 if self.variant == "paper" else channels,), stream).to(carried.dtype)
            return carried * (1 + self.spread * _by_channel(drawn, carried))

        def drop(stream: str, features: Tensor) -> Tensor:
            if features.ndim != 4:
                # Features without four axes come after the trunk (the blocks and poolings). The authors do not drop
                # them.
                return features
            kept = draws.uniform(self, features.shape[1:], stream) < 1 - 2 * self.dropout
            return features * kept.to(features.dtype) / (1 - self.dropout)

        with contextlib.ExitStack() as stack:
            for number, model in enumerate(models.values()):
                if any(not one.dense for one in layers_of(model).blocks):
                    stack.enter_context(changed_skips(model, _named(weigh, number)))
                else:
                    dropped = {name: _at(drop, f"{number}.{name}") for name in trunk_of(model)}
                    stack.enter_context(changed_forward(model, dropped))
            yield


def _named(change: Change, number: int) -> Change:
    return lambda name, carried: change(f"{number}.{name}", carried)


def _at(change: Change, stream: str) -> Callable[[Tensor], Tensor]:
    return lambda features: change(stream, features)


def _by_channel(drawn: Tensor, features: Tensor) -> Tensor:
    """Return `drawn` (rows, 1 or channels) in a shape that can multiply `features`.

    `features` are (rows, C, H, W) or (rows, tokens, C).
    """
    return drawn[:, None, :] if features.ndim == 3 else drawn[..., *[None] * (features.ndim - 2)]
