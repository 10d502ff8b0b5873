"""Intermediate-level perturbation decay (ILPD): mixes features of the attacked image with those of the clean image."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from study.attacks.kinds import ForwardChange, PassDraws
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor, nn


@register
class PerturbationDecay(ForwardChange):
    """Intermediate-level perturbation decay (ILPD): f = `keep` f(x + d) + (1 - `keep`) f(x + noise) at `layer`.

    Source: Li et al. 2023, arXiv:2304.13410. f are the features at `layer`, x is the clean image, and d the
    perturbation. The noise is normal with a standard deviation of `sigma` pixel values. The noise is drawn anew for
    each image, step and copy. Each gradient therefore takes one more forward pass. The attack's views change x + d, but
    they do not change x.

    - `layer`: by default, the authors' layer for ResNet-50, which is the last block of the second stage (`layer2.3`).
      For other networks, the default is the middle layer.

    The authors' code and torchattack compute the same features. torchattack adds momentum.
    """

    name: ClassVar[str] = "ilpd"

    layer: str | None = None
    keep: Annotated[float, Field(ge=0, le=1)] = 0.1
    sigma: Annotated[float, Field(ge=0, le=255)] = 12.75

    @property
    def extra_forwards(self) -> int:
        return 1

    @contextlib.contextmanager
    def on(self, model: nn.Module, name: str, draws: PassDraws) -> Iterator[None]:
        import torch

        from study.models.features import changed_forward
        from study.models.layers.middle import middle_layer
        from study.models.layers.named import network_of

        layer = middle_layer(model, "ilpd", self.layer)
        clean: list[Tensor] = []
        inside = False

        def look(*_: Any) -> None:
            """Run the model on the clean images plus noise.

            This hook runs before each pass. During this additional run, `change` stores the features at `layer`.
            """
            nonlocal inside
            if inside:
                return
            origin = draws.of_images(draws.origin)
            noise = draws.normal(self, origin.shape[1:])
            clean.clear()
            inside = True
            try:
                with torch.no_grad():
                    model(origin + self.sigma * noise)
            finally:
                inside = False

        def change(features: Tensor) -> Tensor:
            if inside:
                clean.append(features.detach())
                return features
            return self.keep * features + (1 - self.keep) * clean.pop(0)

        with network_of(model).register_forward_pre_hook(look), changed_forward(model, {layer: change}):
            yield
