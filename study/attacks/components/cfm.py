"""Clean feature mixup (CFM): mixes the features of other clean images into random layers of a source model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from study.attacks.component import HeldMemory
from study.attacks.kinds import ForwardChange, PassDraws
from study.attacks.registry import register
from study.devices.copies import uploaded

if TYPE_CHECKING:
    from torch import Tensor, nn

    from study.models.clean_features import CleanFeatures


class FeatureMixup(ForwardChange):
    """The base of clean feature mixup (`cfm`) and of feature tuning mixup (`ftm`), with their common parameters.

    The base computes the clean features of the images in the pool. It draws the layers and the images whose features
    are mixed in.
    """

    probability: Annotated[float, Field(ge=0, le=1)] = 0.1
    strength: Annotated[float, Field(ge=0, le=1)] = 0.75
    divisor: Annotated[float, Field(gt=0, le=1000)] = 4.0
    pool: Annotated[int, Field(ge=2, le=1000)] = 16
    variant: Literal["paper", "authors"] = "paper"

    @property
    def others(self) -> int:
        return self.pool

    @property
    def held_memory(self) -> HeldMemory:
        return HeldMemory(features=self.pool)

    @contextlib.contextmanager
    def applied(self, models: Mapping[str, nn.Module], draws: PassDraws) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for number, model in enumerate(models.values()):
                stack.enter_context(self._mixed(model, number, draws))
            yield

    @contextlib.contextmanager
    def _mixed(self, model: nn.Module, number: int, draws: PassDraws) -> Iterator[None]:

        from study.models.clean_features import clean_features
        from study.models.layers.named import network_of

        pool = draws.pool
        assert pool is not None, "an attack with a component that declares `others` has a pool"
        example = next(model.parameters())
        clean = clean_features(model, uploaded(pool.pixels, example.device).float(), self.divisor)
        mixup = Mixup(self, number, draws, clean)
        begin = network_of(model).register_forward_pre_hook(mixup.begin)
        with begin, clean.changed(model, self.mixing(mixup)):
            yield

    def mixing(self, mixup: Mixup) -> Any:
        """Return a function (layer name, output) -> changed output.

        The function is called with the output of each layer that may be mixed.
        """
        raise NotImplementedError


class Mixup:
    """The draws of one model: for each pass and layer, the rows to mix, the features to mix in, and their shares.

    A row is one copy of one image in the pass. `begin` makes new draws at the start of each pass.
    """

    def __init__(
        self,
        component: FeatureMixup,
        number: int,
        draws: PassDraws,
        clean: CleanFeatures,
    ) -> None:
        self.draws = draws
        self._number = number
        self._component = component
        self._clean = clean
        self._places = {name: place for place, name in enumerate(clean.features)}
        self._words = np.zeros((0, 0), dtype=np.uint64)
        self._runs: dict[str, int] = {}

    def begin(self, *_: Any) -> None:
        """Make new draws for the pass that begins. The network calls this method before each pass, as a hook."""
        self._runs = {}
        self._words = self.draws.integers(self._component, 2 * len(self._places), f"layers.{self._number}")

    def of(self, name: str, features: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """Return the rows to mix (M,), the features to mix in (M, …), and their shares; None if no row is mixed.

        Call this method each time that layer `name` runs, with the layer's output `features`. The features to mix in
        are those of clean images of the pool at the same layer. The shares have a shape that can multiply the features
        of M rows.
        """

        from study.models.clean_features import by_channel

        run = self._runs.get(name, 0)
        self._runs[name] = run + 1
        words = self._words[:, 2 * self._places[name] :][:, :2]
        rows = np.flatnonzero(words[:, 0] < self._component.probability * 2.0**64)
        if not len(rows):
            return None
        runs = self._clean.features[name]
        clean = runs[run % len(runs)]
        partners = (words[rows, 1] % np.uint64(len(clean))).astype(np.int64)
        axis = self._clean.axis_of_channels(name, features) if self._component.variant == "paper" else 1
        drawn = self.draws.uniform(self._component, (features.shape[axis],), f"shares.{self._number}.{name}")
        shares = self._component.strength / 2 * (drawn + 1)
        chosen = uploaded(rows, features.device)
        others = clean[uploaded(partners, clean.device)].to(features.dtype)
        return chosen, others, by_channel(shares[chosen], features, axis)


@register
class CleanFeatureMixup(FeatureMixup):
    """Clean feature mixup (CFM): in layers that are drawn for each pass, features of another clean image are mixed in.

    Source: Byun et al. 2023, arXiv:2305.14846. Each linear layer is mixed with the probability `probability`. The same
    holds for each convolution whose output is at most as wide as the image divided by `divisor`. Mixing replaces the
    layer's features f by (1 - a) f + a f'. f' are the features of a clean image at this layer, from one pass before the
    attack. The share a is uniform in 0 .. `strength`, and is drawn for each channel.

    Layers, images to mix in, and shares are drawn for each image, step and copy. The images to mix in come from a pool
    of `pool` images of the study, which may contain the attacked image. The study's seed determines which images are in
    the pool. The features of these images stay in memory.

    Other code: The authors draw layers for a whole batch, and mix the images of the batch with each other. An image is
    then sometimes mixed with itself. The authors count the pass before the attack as one of the 300 steps. In a
    transformer, whose features are (N, tokens, C), the authors' code draws a share for each token, not for each
    channel. `variant: authors` does the same.
    """

    name: ClassVar[str] = "cfm"
    version: ClassVar[int] = 2

    def mixing(self, mixup: Mixup) -> Any:
        def change(name: str, features: Tensor) -> Tensor:
            found = mixup.of(name, features)
            if found is None:
                return features
            rows, others, shares = found
            return features.index_copy(0, rows, (1 - shares) * features[rows] + shares * others)

        return change
