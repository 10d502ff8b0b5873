"""Skip gradient method, SGM: gradients of residual branches are multiplied by a factor below 1."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from study.attacks.kinds import BackwardChange, PassDraws
from study.attacks.registry import register
from study.errors import StudyError

if TYPE_CHECKING:
    from torch import nn

Decay = Annotated[float, Field(ge=0, le=1)]


@register
class SkipGradient(BackwardChange):
    """Skip gradient method, SGM: gradients of residual branches are multiplied by `gamma`.

    Wu et al. 2020, arXiv:2002.05990, equation 9. In a DenseNet, the gradients of the features that a layer adds are
    multiplied by `dense`, or by `gamma` if `dense` is not given. `models` maps the names of models to other factors.
    The factor of a model in `models` replaces both `gamma` and `dense`. The authors' code leaves some blocks unchanged;
    `compatibility: authors` does the same.
    """

    name: ClassVar[str] = "skip_gradient"
    main: ClassVar[str | None] = "gamma"

    gamma: Decay
    dense: Decay | None = None
    models: dict[str, Decay] = Field(default_factory=dict)
    compatibility: Literal["paper", "authors"] = "paper"

    def of(self, model: str) -> tuple[float, float]:
        """Return the factor of residual branches and the factor of dense layers, for the model named `model`."""
        if model in self.models:
            return self.models[model], self.models[model]
        return self.gamma, self.gamma if self.dense is None else self.dense

    @contextlib.contextmanager
    def applied(self, models: Mapping[str, nn.Module], draws: PassDraws) -> Iterator[None]:
        from study.models import residual

        with contextlib.ExitStack() as stack:
            known = False
            for name, model in models.items():
                known = known or bool(residual.branches(model))
                branch, dense = self.of(name)
                stack.enter_context(
                    residual.decayed(model, residual=branch, dense=dense, compatibility=self.compatibility)
                )
            if not known:
                raise StudyError(
                    f"skip_gradient needs residual branches or dense layers, but none are known in "
                    f"{' + '.join(models)}",
                    accepted="ResNet, ResNeXt, SE-ResNet, SENet, DenseNet, EfficientNet, ViT and similar networks",
                    todo="leave these sources out of the attack's experiments",
                )
            yield
