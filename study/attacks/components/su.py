"""Self-universality, SU: the perturbation must also work on an enlarged part of the image, with similar features."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from study.attacks.component import AttackOutline
from study.attacks.kinds import FeatureObjective, Goal, View, ViewContext
from study.attacks.registry import register
from study.attacks.resampling import resized
from study.devices.copies import uploaded

if TYPE_CHECKING:
    from torch import Tensor, nn

Share = Annotated[float, Field(gt=0, le=1)]


@register
class GlobalAndLocal(View):
    """Self-universality's views: the image, and an enlarged part of the clean image with the same perturbation.

    Wei et al. 2023, arXiv:2209.03716, section 3.2. The part is drawn for each image and step. The area of the part is
    `low` to `high` times the image's area. The aspect ratio is between 3:4 and 4:3, and its logarithm is uniform. The
    place is random. The part is resized to the image's size (bilinear). Then the whole perturbation is added.

    The authors and TransferAttack cut the same part of all images of a batch.
    """

    name: ClassVar[str] = "su"

    low: Share = 0.1
    high: Share = 0.1

    @model_validator(mode="after")
    def _ordered(self) -> GlobalAndLocal:
        if self.low > self.high:
            raise PydanticCustomError("parts", "`low` of the view `su` is above its `high`")
        return self

    @property
    def count(self) -> int:
        return 2

    def make(self, image: Tensor, given: ViewContext) -> Tensor:
        if given.copy == 0:
            return image
        height, width = image.shape[2:]
        rows, columns = [], []
        for size, shape, top, left in (given.draws.integers(4) / 2**64).tolist():
            area = height * width * (self.low + (self.high - self.low) * size)
            ratio = math.exp((2 * shape - 1) * math.log(4 / 3))
            rows.append(_enlarged(height, round(math.sqrt(area / ratio)), top))
            columns.append(_enlarged(width, round(math.sqrt(area * ratio)), left))
        down, across = (uploaded(np.stack(one), image.device, image.dtype)[:, None] for one in (rows, columns))
        origin = given.origin.to(image.dtype)
        return image + (down @ origin @ across.mT - origin)


def _enlarged(size: int, part: int, place: float) -> NDArray[np.float64]:
    """Return the matrix (size, size) that resizes a part of an axis, `part` pixels long, to the whole axis.

    `place` in 0..1 is the position of the part on the axis: 0 is at the beginning, and 1 at the end.
    """
    part = min(max(1, part), size)
    start = min(int(place * (size - part + 1)), size - part)
    matrix = np.zeros((size, size))
    matrix[:, start : start + part] = resized(part, size, "bilinear")
    return matrix


@register
class SimilarFeatures(FeatureObjective):
    """Self-universality's loss: the mean logit of both views, plus `weight` times a similarity of their features.

    Wei et al. 2023, arXiv:2209.03716, equation 5. If the attack is targeted, the logit is that of the target label.
    Otherwise, minus the logit of the true label is used. The similarity is the cosine between the features of the whole
    image and the features of the enlarged part. The features are the output of the stage at the relative depth `depth`
    of the network. For 0.75, as in the authors' code, this stage is `layer3` of a ResNet, conv4 of a VGG and Mixed_6e
    of Inception-v3. Views that come after `su`, such as diversity, change both views. Without views, the loss is the
    logit alone.
    """

    name: ClassVar[str] = "su"
    together: ClassVar[bool] = True

    weight: Annotated[float, Field(ge=0)] = 0.001
    depth: Share = 0.75

    def conflicts(self, attack: AttackOutline) -> Iterator[str]:
        if next(iter(attack.parts.get("view", ("su",)))) != "su":
            yield (
                "`objective: su` compares the two copies of the view `su`: put `su` first in `views`, and all other "
                "views, such as `diversity`, after it in `views`"
            )

    def layers(self, network: nn.Module) -> Sequence[str]:
        from study.models.layers.catalogue import layers_of

        return (layers_of(network).stage(self.depth),)

    def loss(
        self, features: Mapping[str, Tensor], prepared: Mapping[str, Tensor], logits: Tensor, labels: Tensor, goal: Goal
    ) -> Tensor:
        from torch.nn.functional import cosine_similarity

        chosen = logits.gather(-1, labels.expand(logits.shape[:-1]).unsqueeze(-1)).squeeze(-1).mean(0)
        gain = chosen if goal == "targeted" else -chosen
        (values,) = features.values()
        if len(values) == 1:
            return gain
        whole, local = values.flatten(2).chunk(2)
        return gain + self.weight * cosine_similarity(whole, local, dim=-1).mean(0)
