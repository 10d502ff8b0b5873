"""Virtual steps and auxiliary gradients, VA: steps that may leave the budget, some by gradients of random labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from study.attacks.component import AttackOutline
from study.attacks.kinds import Program, ProgramContext
from study.attacks.registry import register
from study.errors import StudyError

if TYPE_CHECKING:
    from torch import Tensor


@register
class VirtualSteps(Program):
    """Virtual steps and auxiliary gradients, VA: sign steps beyond the budget, some by gradients of random labels.

    Zhang et al. 2022, "Improving Transferability of Adversarial Examples with Virtual Step and Auxiliary Gradients",
    IJCAI 2022. Each step takes 1 + `auxiliary` gradients at the same image: the attack's gradient, and one gradient for
    each of `auxiliary` other labels. These labels are drawn anew at each step for each image. The auxiliary gradients
    raise the probability of these labels. For a targeted goal, they lower this probability. Each gradient makes one
    sign step, and the sign steps follow one another. After each sign step, the image is clipped to 0..255, but not to
    the budget. Only the finished image is projected onto the budget. The authors' code has 3 labels, and 20 steps of
    0.007 (1.785 pixel values).

    The views of the attack are the same for all gradients of a step. An objective that reads features is prepared once,
    for the attack's own labels.
    """

    name: ClassVar[str] = "virtual-steps"
    main: ClassVar[str | None] = "auxiliary"

    auxiliary: Annotated[int, Field(ge=0, le=500)] = 3

    def conflicts(self, attack: AttackOutline) -> Iterator[str]:
        for kind in ("point", "update", "start"):
            if attack.parts.get(kind):
                yield f"the program virtual-steps takes its own sign steps: remove all components of kind {kind}"

    def cost(self, steps: int, sources: int, views: int) -> int:
        return views * steps * (1 + self.auxiliary)

    def forwards(self, steps: int, sources: int) -> int:
        return 1

    def run(self, given: ProgramContext) -> Sequence[Tensor]:
        import torch

        classes = min(given.forward(given.origin, model).shape[-1] for model in range(given.models))
        if self.auxiliary >= classes:
            raise StudyError(
                f"virtual-steps takes gradients for {self.auxiliary} other labels of each image, but a model has "
                f"only {classes} labels",
                accepted=f"auxiliary: up to {classes - 1}",
            )
        delta = torch.zeros_like(given.origin)
        found: dict[int, Tensor] = {}
        stops = {steps for steps, _ in given.points}
        for step in range(given.steps):
            image = given.origin + delta
            auxiliary = self._labels(given, step, classes)
            gradients = [given.gradient(image, step)]
            gradients += [-given.gradient(image, step, labels=labels) for labels in auxiliary]
            for gradient in gradients:
                image = (image + given.size * gradient.sign()).clamp(0, 255)
            delta = image - given.origin
            if step + 1 in stops:
                found[step + 1] = given.project(delta)
        return [found[steps] for steps, _ in given.points]

    def _labels(self, given: ProgramContext, step: int, classes: int) -> Iterator[Tensor]:
        """Yield `auxiliary` tensors of labels (N,).

        For each image, the labels differ from each other and from the objective's label.
        """
        yield from others(given.labels, given.draws(self, step).words(self.auxiliary), classes).unbind(1)


def others(own: Tensor, words: Tensor, classes: int) -> Tensor:
    """Return K different random labels for each image, int64 (N, K), none of which is the image's label in `own` (N,).

    Labels are integers from 0 to `classes` - 1, and K is less than `classes`. Each of the random `words` (N, K) selects
    one label, uniformly from the labels that are not yet taken. `words` are int64 and hold the bits of unsigned
    integers.
    """
    import torch

    from study.reproducibility.words import below

    taken = own[:, None]
    for word in words.unbind(1):
        label = below(word, classes - taken.shape[1])
        for one in taken.sort(1).values.unbind(1):
            label = label + (label >= one)
        taken = torch.cat([taken, label[:, None]], 1)
    return taken[:, 1:]
