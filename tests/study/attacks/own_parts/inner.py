"""An ensemble rule with an inner loop: model after model moves a trial image, and the whole way is the gradient."""

from __future__ import annotations

from typing import ClassVar

import torch

from study.attacks.kinds import EnsembleRule, ModelsAt, State


class OneByOne(EnsembleRule):
    """Each model in turn moves the image by `size` pixel values along the sign of its gradient; `rounds` times."""

    name: ClassVar[str] = "one-by-one"

    size: float = 1.0
    rounds: int = 2

    def gradient(self, image: torch.Tensor, models: ModelsAt, sample: int, state: State) -> torch.Tensor:
        trial = image
        for number in range(self.rounds):
            for model in range(models.count):
                trial = trial + self.size * models.of(model, trial, sample * self.rounds + number).sign()
        return trial - image

    def cost(self, sources: int) -> int:
        return sources * self.rounds
