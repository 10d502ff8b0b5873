"""ILA++: moves features along the direction that best explains the growth of the loss in another attack's steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from study.attacks.components.feature_layers import Layer, layer_of
from study.attacks.components.objectives import CrossEntropy
from study.attacks.components.weighted_features import only, summed, unit
from study.attacks.kinds import FeatureObjective, Goal, PreparingSource
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor, nn


@register
class ILAPlus(FeatureObjective):
    """ILA++: raises <f(x + d) - f(x), w>, where w comes from a linear regression of the loss on the features.

    Source: Guo et al. 2022 (arXiv:2203.10723), after Li et al. 2020 (arXiv:2008.08847). Each image has its own w. The
    symbols are:

    - x: the clean image; d: the perturbation; f: the features at `layer`;
    - x_t: the image of the attack's first stage after step t, or at its checkpoint t if it has more steps;
    - h_t: f(x_t) - f(x), divided by its L2 norm. The rows of the matrix H are the h_t;
    - r_t: the cross-entropy at x_t (for a targeted goal, the log probability of the target). The entries of the vector
      r are the r_t;
    - w: (H^T H + lambda I)^-1 H^T r, divided by its L2 norm. For a large lambda, w has the direction of sum_t r_t h_t.

    The attack itself starts from the clean image again.

    - `layer`: `middle` by default. The authors use the first block of layer3 of ResNet-50, `layer3.0`;
    - `iterates`: the number of images x_t. The first stage must give this number of images. For an image after each of
      its steps, it has this number of steps, and `checkpoints` at all steps except the last;
    - `ridge`: lambda. By default, w has the direction for a large lambda, as in the authors' code. The paper describes
      both cases.

    The x_t are the 8-bit images that the first stage would return at these steps. The authors use float images.
    """

    name: ClassVar[str] = "ila++"
    uses_first: ClassVar[bool] = True

    layer: Layer = "middle"
    iterates: Annotated[int, Field(ge=1, le=1000)] = 10
    ridge: Annotated[float, Field(gt=0, le=1e9)] | None = None

    @property
    def first_points(self) -> int:
        return self.iterates

    def layers(self, network: nn.Module) -> Sequence[str]:
        return [layer_of(network, self.layer, "ila++")]

    @property
    def preparing_forwards(self) -> int:
        return 1 + self.iterates

    def prepare(self, source: PreparingSource) -> Mapping[str, Tensor]:
        clean = only(source.features(source.origin))
        ways, losses = [], []
        for image in source.path:
            features, logits = source.forward(image)
            ways.append(unit(only(features) - clean))
            losses.append(CrossEntropy().loss(logits, source.labels, source.goal))
        return {"clean": clean, "way": unit(self._regression(ways, losses))}

    def _regression(self, ways: Sequence[Tensor], losses: Sequence[Tensor]) -> Tensor:
        """Return w (N, …) before its normalisation, for the h_t (N, …) in `ways` and the r_t (N,) in `losses`."""
        import torch

        if self.ridge is not None:
            rows = torch.stack([way.flatten(1) for way in ways], 1).double()
            gram = rows @ rows.mT + self.ridge * torch.eye(len(ways), dtype=rows.dtype, device=rows.device)
            # The ridge makes the matrix regular. `solve` would check whether it is regular, and wait for the device.
            solved = torch.linalg.solve_ex(gram, torch.stack(list(losses), 1).double()).result
            losses = solved.to(ways[0].dtype).unbind(1)
        total = torch.zeros_like(ways[0])
        for way, loss in zip(ways, losses, strict=True):
            total = total + way * loss.reshape(-1, *(1 for _ in way.shape[1:]))
        return total

    def loss(
        self, features: Mapping[str, Tensor], prepared: Mapping[str, Tensor], logits: Tensor, labels: Tensor, goal: Goal
    ) -> Tensor:
        return summed((only(features) - prepared["clean"]) * prepared["way"])
