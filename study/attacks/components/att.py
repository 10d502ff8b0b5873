"""Adaptive token tuning (ATT) for vision transformers.

`TokenTuning` multiplies the gradients inside a transformer by factors. `PatchPacing` leaves out the perturbation on
random patches.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from study.attacks.component import AttackOutline
from study.attacks.kinds import BackwardChange, ForwardChange, PassDraws
from study.attacks.registry import register
from study.errors import StudyError

if TYPE_CHECKING:
    from torch import Tensor, nn

Factor = Annotated[float, Field(ge=0, le=10)]


@dataclass(frozen=True)
class _Numbers:
    """The defaults of `TokenTuning` and `PatchPacing` for one family of networks, such as PiT."""

    attention: float
    qkv: float
    mlp: float
    kept: float
    scale: float
    offset: float


_VIT = _Numbers(0.45, 0.7, 0.65, 10 / 12, 0.4, 0.4)
_NUMBERS = {
    "pit": _Numbers(0.25, 0.6, 0.65, 9 / 13, 0.3, 0.45),
    "cait": _Numbers(0.3, 1.0, 0.6, 4 / 25, 0.35, 0.4),
    "visformer": _Numbers(0.4, 0.8, 0.3, 1.0, 0.15, 0.25),
}


def _numbers_of(model: nn.Module) -> _Numbers:
    from study.models.layers.catalogue import layers_of

    return _NUMBERS.get(layers_of(model).family, _VIT)


@register
class TokenTuning(BackwardChange):
    """Adaptive token tuning (ATT): damps gradients of attention maps, QKV and MLPs, and damps extreme tokens again.

    Source: Ming et al. 2024 (NeurIPS, openreview sNz7tptCH6). In the backward pass, each gradient is first multiplied
    by a factor:

    - gradients of attention maps: by `attention` in the first blocks, and by 0 in the later blocks. `kept` is the
      fraction of blocks that count as first;
    - gradients of queries, keys and values: by `qkv`;
    - gradients of the outputs of MLPs: by `mlp`.

    Then the extremes of each gradient are damped. In an attention map, the extremes are the rows and columns with the
    largest or smallest gradient. In the other gradients, each channel has its own extremes: the tokens with the largest
    or smallest gradient.

    All extremes are multiplied by min(max(`gamma` + `adapt` (1 - sqrt(v / v')), 0), 1). v is the variance of this
    block's gradient before its extremes are damped. v' is the variance of the following block's gradient after its
    extremes are damped. In the last block, and where v' is 0, extremes are multiplied by `gamma`. In CaiT's class
    attention, the layers of queries, keys and values count as three blocks.

    The defaults of `attention`, `qkv`, `mlp` and `kept` depend on the network. ViT, PiT, CaiT and Visformer get the
    numbers of torchattack, and other networks get the numbers for ViT. Extremes and variances are computed for each
    image separately.

    Other code: TransferAttack and torchattack are ports of the authors' code. Both ports change the gradient of the
    attention scores (before the softmax), not the gradient of the attention map. `variant: authors` does the same. Both
    ports run with one image per batch. TransferAttack damps attention by `gamma`, and sets the gradients of no block to
    0.
    """

    name: ClassVar[str] = "att"

    attention: Factor | None = None
    qkv: Factor | None = None
    mlp: Factor | None = None
    kept: Annotated[float, Field(ge=0, le=1)] | None = None
    gamma: Factor = 0.5
    adapt: Factor = 0.01
    variant: Literal["paper", "authors"] = "paper"

    @contextlib.contextmanager
    def on(self, model: nn.Module, name: str, draws: PassDraws) -> Iterator[None]:
        from study.models.layers.named import network_of
        from study.models.token_gradients import EXTREMES, Sort, changed_tokens, transformer_of

        parts, numbers = transformer_of(model, "att"), _numbers_of(model)
        attention = numbers.attention if self.attention is None else self.attention
        kept = round((numbers.kept if self.kept is None else self.kept) * len(parts.maps))
        factors = dict.fromkeys(parts.maps[:kept], attention) | dict.fromkeys(parts.maps[kept:], 0.0)
        factors |= dict.fromkeys(parts.qkv, numbers.qkv if self.qkv is None else self.qkv)
        factors |= dict.fromkeys(parts.mlps, numbers.mlp if self.mlp is None else self.mlp)
        tuned = {sort: _Tuned(self.gamma, self.adapt) for sort in EXTREMES}

        def begin(*_: Any) -> None:
            for one in tuned.values():
                one.before = None

        def tune(sort: Sort, layer: str, gradient: Tensor) -> Tensor:
            return tuned[sort](factors[layer] * gradient, EXTREMES[sort])

        at: Literal["map", "scores"] = "map" if self.variant == "paper" else "scores"
        with network_of(model).register_forward_pre_hook(begin), changed_tokens(model, parts, tune, at):
            yield


class _Tuned:
    """Damps the extremes of one kind of gradient (attention maps, QKV, or MLPs) in one backward pass.

    The object is called once for each layer with such a gradient, from the last layer to the first. `before` (N,) is
    the variance of the damped gradient in the previous call. It is None in the first call.
    """

    def __init__(self, gamma: float, adapt: float) -> None:
        self._gamma = gamma
        self._adapt = adapt
        self.before: Tensor | None = None

    def __call__(self, gradient: Tensor, extremes: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        import torch

        before = self.before
        variance = gradient.flatten(1).var(1)
        factor = torch.full_like(variance, self._gamma)
        if before is not None:
            ratio = (variance / torch.where(before > 0, before, 1)).sqrt()
            factor = torch.where(before > 0, (factor + self._adapt * (1 - ratio)).clamp(0, 1), factor)
        found = extremes(gradient, factor)
        self.before = found.flatten(1).var(1)
        return found


@register
class PatchPacing(ForwardChange):
    """Adaptive token tuning (ATT), part two: leaves out the perturbation on random patches (more in later steps).

    Source: Ming et al. 2024 (NeurIPS, openreview sNz7tptCH6). A patch has `patch` x `patch` pixels. Let t =
    `scale` x importance + `offset`. In step i, counted from 1, a patch is left out with the probability
    0.01 + (0.99 - t) i / `pace`. Steps after step `pace` have the probability of step `pace`. Patches are drawn for
    each image and step. By default, `scale` and `offset` are the authors' numbers for the network's family.

    Importance: the importance of a patch is computed once for each clean image, from the features at `layer`. The
    features are multiplied by the gradient of the summed logits with respect to the features. The products are summed
    over channels, resized to the size of the image, averaged over each patch, and scaled to 0..1.

    - `layer`: with `variant: authors`, the default is the second block from the end, as in the authors' code. With
      `variant: paper`, it is the third block from the end.

    At the authors' layer, the patch tokens of a ViT reach the logits through a layer norm only. A layer norm ignores
    the scale of its input, so features times gradient sum to 0, except for the norm's epsilon. In float32, the
    importance at the authors' layer is therefore mostly rounding error.

    Other code: In TransferAttack, all images share one draw of patches, with the importance of the first image.
    torchattack draws for each pixel, but its importances are NaN, so no pixel is left out. In both ports and here, the
    attack's other changes are active while the gradient for the importance is computed.
    """

    name: ClassVar[str] = "att-patches"

    layer: str | None = None
    patch: Annotated[int, Field(ge=1, le=1024)] = 16
    pace: Annotated[int, Field(ge=1, le=100_000)] = 10
    scale: Annotated[float, Field(ge=0, le=1)] | None = None
    offset: Annotated[float, Field(ge=0, le=1)] | None = None
    variant: Literal["paper", "authors"] = "paper"

    @property
    def preparing_gradients(self) -> int:
        return 1

    def conflicts(self, attack: AttackOutline) -> Iterator[str]:
        if attack.parts.get("view"):
            yield "`att-patches` needs images that no view has changed: remove all views (`views`, `diversity`, ...)"

    @contextlib.contextmanager
    def applied(self, models: Mapping[str, nn.Module], draws: PassDraws) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for number, model in enumerate(models.values()):
                layer = self.layer or _near_the_end(model, 2 if self.variant == "authors" else 3)
                masking = _Masking(self, model, layer, number, draws)
                stack.enter_context(model.register_forward_pre_hook(masking))
            yield


class _Masking:
    """A forward pre-hook of one model that replaces the input by the clean image on random patches."""

    def __init__(self, pacing: PatchPacing, model: nn.Module, layer: str, number: int, draws: PassDraws) -> None:
        from study.models.layers.catalogue import layers_of

        numbers = _numbers_of(model)
        self._pacing = pacing
        self._layer = layer
        self._prefix = layers_of(model).patches.prefix
        self._scale = numbers.scale if pacing.scale is None else pacing.scale
        self._offset = numbers.offset if pacing.offset is None else pacing.offset
        self._number = number
        self._draws = draws
        self._batch = -1
        self._busy = False
        self._kept: Tensor | None = None

    def __call__(self, model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._busy:
            return None
        draws, pacing = self._draws, self._pacing
        if draws.batch != self._batch:
            self._batch, self._kept = draws.batch, self._of_batch(model)
        assert self._kept is not None, "the first pass of a batch computes the probabilities"
        (image,) = inputs
        kept = draws.of_images(self._kept)
        start = 0.99
        share = start - (start - kept) * min(max(draws.step, 0) + 1, pacing.pace) / pacing.pace
        drawn = (draws.uniform(pacing, kept.shape[1:], f"patches.{self._number}") + 1) / 2
        mask = (drawn <= share).to(image.dtype)[:, None]
        mask = mask.repeat_interleave(pacing.patch, 2).repeat_interleave(pacing.patch, 3)
        mask = mask[..., : image.shape[-2], : image.shape[-1]]
        origin = draws.of_images(draws.origin)
        return (origin + mask * (image - origin),)

    def _of_batch(self, model: nn.Module) -> Tensor:
        """Return the probability that a patch keeps its perturbation, for each patch, (N, patches down, patches right).

        The probability holds in step `pace` and in all later steps.
        """
        import torch
        from torch.nn import functional

        from study.models.features import captured

        origin = self._draws.origin
        self._busy = True
        try:
            with torch.enable_grad(), captured(model, [self._layer]) as found:
                logits = model(origin.detach().requires_grad_())
                (gradient,) = torch.autograd.grad(logits.sum(), found[self._layer])
        finally:
            self._busy = False
        weight = self._by_place(found[self._layer].detach() * gradient)
        weight = functional.interpolate(weight[:, None], origin.shape[-2:], mode="bilinear", align_corners=False)
        mean = functional.avg_pool2d(weight, self._pacing.patch, ceil_mode=True)[:, 0]
        low, high = mean.amin((1, 2), keepdim=True), mean.amax((1, 2), keepdim=True)
        importance = (mean - low) / torch.where(high > low, high - low, 1)
        return self._scale * importance + self._offset

    def _by_place(self, products: Tensor) -> Tensor:
        """Return `products` (features times gradients), summed over channels, as an image (N, height, width).

        `products` are (N, C, height, width), or (N, tokens, C) in a transformer. Raises StudyError if the patch tokens
        do not form a square.
        """
        if products.ndim == 4:
            return products.sum(1)
        tokens = products[:, self._prefix :].sum(-1)
        side = math.isqrt(tokens.shape[1])
        if side * side != tokens.shape[1]:
            raise StudyError(
                f"the {tokens.shape[1]} tokens of '{self._layer}' do not form a square of patches",
                accepted="transformers of square images, such as ViT, DeiT, PiT, Visformer",
                todo="name another layer, or leave this source out",
            )
        return tokens.view(-1, side, side)


def _near_the_end(model: nn.Module, place: int) -> str:
    """Return the name of the block at position `place` from the end, where 1 is the last block.

    The last two blocks of CaiT, which process the class token alone, count as one block together. If the network has
    fewer blocks than `place`, the first block is returned. Raises StudyError if the network is no transformer.
    """
    from study.models.layers.catalogue import layers_of
    from study.models.token_gradients import transformer_of

    transformer_of(model, "att-patches")
    every = list(dict.fromkeys(branch.block for branch in layers_of(model).blocks))
    of_all = [name for name in every if not name.startswith("blocks_token_only")]
    back = place if of_all == every else place - 1
    return of_all[max(0, len(of_all) - back)]
