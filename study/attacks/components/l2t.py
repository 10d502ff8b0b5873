"""L2T: random chains of image operations, whose probabilities are learnt for each image during the attack."""

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

    Zhu et al., CVPR 2024, arXiv:2405.14077. A chain applies `length` operations to the image, one after the other.
    Every operation has a parameter, which is 0 at first. The probabilities of the operations are the softmax of the
    parameters. A chain draws its operations with these probabilities, with replacement. After each step, the policy
    gradient changes the parameters to raise the expected loss. The change is `rate` times the mean over the chains of
    J * d log p. J is the loss of a chain, and p is the probability of the chain. There are 98 operations in several
    families, and `families` names the families to use. The family "mix" adds images from a pool of `pool` images.

    `variant: authors` takes the gradient of the mean of J * p, as the authors' code does. p is about 1 / 10,000, so the
    parameters stay close to 0, and the operations are drawn almost uniformly.

    The authors' code differs in three more points:

    - In their code, an operation makes up to ten copies of the image, and a chain of two operations makes up to a
      hundred. The number of passes in a step is therefore random. Here, an operation makes one of these copies, chosen
      at random. The mean gradient is the same, and the cost is fixed;
    - In their code, a translation by the fraction f moves the image by f pixels, which is at most one pixel. Here, the
      image moves by f times its size;
    - In their code, all images of a batch share probabilities, chains and losses. Here, each image has its own.

    TransferAttack uses 3 samples, and torchattack uses 5.
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
        """The operations of the chosen `families`, in the order of their parameters."""
        return [one for one in LEARNT if one.family in self.families]

    def conflicts(self, attack: AttackOutline) -> Iterator[str]:
        yield from not_innermost(self.name, attack)
        if attack.parts.get("penalty"):
            yield (
                "l2t takes gradients at transformed images, where a penalty has no meaning: remove `penalty` and "
                "`penalties`"
            )

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
        """Return the operations of chain number `sample` of each image, as indices (N, length) into `operations`.

        `probabilities` (N, K) are the probabilities of the K operations.
        """
        words = step.draws(self, sample).integers(self.length, "chain")
        shares = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
        below = probabilities.cumsum(1)[:, None, :-1] <= shares[:, :, None]
        chain: NDArray[np.int64] = below.sum(2)
        return chain

    def ascent(
        self, probabilities: NDArray[np.float64], chains: NDArray[np.int64], gains: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the gradient (N, K) of the expected loss with respect to the parameters of K operations.

        `probabilities` (N, K) are the probabilities of the operations. `chains` (M, N, length) are the indices of the
        operations in M chains per image. `gains` (M, N) are the losses of these chains. For `variant: authors`, each
        loss is multiplied by the probability of its chain.
        """
        drawn = (chains[..., None] == np.arange(probabilities.shape[1])).sum(2)
        score = drawn - chains.shape[2] * probabilities
        if self.variant == "authors":
            of_each = np.take_along_axis(probabilities[None], chains.reshape(len(chains), len(probabilities), -1), 2)
            gains = gains * of_each.prod(2)
        ascent: NDArray[np.float64] = (gains[..., None] * score).mean(0)
        return ascent


def softmax(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the softmax of `parameters` over the last axis."""
    powers: NDArray[np.float64] = np.exp(parameters - parameters.max(-1, keepdims=True))
    powers /= powers.sum(-1, keepdims=True)
    return powers
