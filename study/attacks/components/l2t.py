"""L2T: image operations whose probabilities are learnt during the attack, for each image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from study.attacks.budget_spec import Positive
from study.attacks.component import AttackOutline
from study.attacks.components.places import not_innermost
from study.attacks.image_operations import LEARNT, Family, Operation, applied
from study.attacks.kinds import Inner, Point, State, StepContext
from study.attacks.registry import register

if TYPE_CHECKING:
    from torch import Tensor


_FAMILIES: tuple[Family, ...] = tuple(dict.fromkeys(one.family for one in LEARNT))


@register
class LearnedTransforms(Point):
    """L2T: the mean gradient over `samples` random chains of `length` image operations, whose probabilities are learnt.

    Zhu et al., CVPR 2024, arXiv:2405.14077. Every operation has a parameter, which is 0 at first. A chain draws its
    operations from the softmax of the parameters, with replacement. After each step, the parameters take a step up the
    expected loss J with learning rate `rate`, by the policy gradient: `rate` * mean of J * d log p, where p is the
    probability of the chain. There are 98 operations in several families, and `families` names the families to use. The
    family "mix" adds other images, from a pool of `pool` images.

    `variant: authors` takes the gradient of the mean of J * p, as the authors' code does. p is about 1 / 10,000, so the
    parameters practically stay 0 and the operations are drawn uniformly. In their code, one operation makes up to ten
    copies, and two make up to a hundred: the gradient of one step costs a random number of passes. Here, a chain makes
    one image; it draws one of the copies. This has the same mean, at a fixed cost. Here, translations are fractions of
    the image's size; their code takes the fractions as pixels, so it moves an image by a pixel at most. Here,
    probabilities, chains and losses belong to each image; in their code, to a batch. TransferAttack has 3 samples,
    torchattack 5.
    """

    name: ClassVar[str] = "l2t"

    samples: Annotated[int, Field(ge=1, le=10_000)] = 10
    length: Annotated[int, Field(ge=1, le=16)] = 2
    rate: Positive = 0.01
    families: Annotated[tuple[Family, ...], Field(strict=False)] = _FAMILIES
    pool: Annotated[int, Field(ge=2, le=1000)] = 32
    variant: Literal["paper", "authors"] = "paper"

    @model_validator(mode="after")
    def _has_operations(self) -> LearnedTransforms:
        if not self.operations:
            raise PydanticCustomError("parts", f"`families` of l2t must name at least one of {', '.join(_FAMILIES)}")
        return self

    @property
    def others(self) -> int:
        return self.pool if "mix" in self.families else 0

    @property
    def operations(self) -> list[Operation]:
        """The operations that take part, in the order of their parameters."""
        return [one for one in LEARNT if one.family in self.families]

    def conflicts(self, attack: AttackOutline) -> Iterator[str]:
        yield from not_innermost(self.name, attack)
        if attack.parts.get("penalty"):
            yield "l2t takes gradients at changed images, where a penalty has no meaning: remove `penalties`"

    def calls(self, steps: int) -> tuple[int, int]:
        return 0, self.samples * steps

    def gradient(self, delta: Tensor, step: StepContext, inner: Inner, state: State) -> Tensor:
        import torch

        operations, image = self.operations, step.origin + delta
        parameters = state.get("parameters")
        if parameters is None:
            parameters = np.zeros((len(image), len(operations)))
        probabilities = softmax(parameters)
        total, gains, chains = torch.zeros_like(image), [], []
        for sample in range(self.samples):
            chain = self._chain(step, sample, probabilities)
            chains.append(chain)
            leaf = image.detach().requires_grad_(True)
            view = leaf
            for place in range(self.length):
                chosen = [operations[number] for number in chain[:, place]]
                view = applied(view, chosen, step.draws(self, sample), f"operation{place}", step.pool)
            upstream = step.gradient(view.detach(), sample)
            gains.append(step.losses())
            total += torch.autograd.grad(view, leaf, upstream)[0]
        found = torch.stack(gains).double().cpu().numpy()
        state["parameters"] = parameters + self.rate * self.ascent(probabilities, np.stack(chains), found)
        return total / self.samples

    def _chain(self, step: StepContext, sample: int, probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
        """The indices (N, length) of the operations that each image draws."""
        words = step.draws(self, sample).integers(self.length, "chain")
        shares = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
        below = probabilities.cumsum(1)[:, None, :-1] <= shares[:, :, None]
        chain: NDArray[np.int64] = below.sum(2)
        return chain

    def ascent(
        self, probabilities: NDArray[np.float64], chains: NDArray[np.int64], gains: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the gradient (N, K) of the expected loss with respect to the parameters of K operations.

        `probabilities` (N, K) are those of the operations, `chains` (M, N, length) the indices of the operations of M
        samples, and `gains` (M, N) the losses of the samples.
        """
        drawn = (chains[..., None] == np.arange(probabilities.shape[1])).sum(2)
        score = drawn - chains.shape[2] * probabilities
        if self.variant == "authors":
            of_each = np.take_along_axis(probabilities[None], chains.reshape(len(chains), len(probabilities), -1), 2)
            gains = gains * of_each.prod(2)
        ascent: NDArray[np.float64] = (gains[..., None] * score).mean(0)
        return ascent


def softmax(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the softmax over the last axis."""
    powers: NDArray[np.float64] = np.exp(parameters - parameters.max(-1, keepdims=True))
    powers /= powers.sum(-1, keepdims=True)
    return powers
