"""The passes that a study's work is computed in, asked of the engine itself: what memory is planned for. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator

from study.geometry.plan import models_of
from study.models.memory_needs import Passes, Work
from study.reproducibility import numerics
from study.spec.schema import Spec

_ELSEWHERE = "cuda:0"


def predictions(spec: Spec) -> Passes:
    """The passes that targets predict in."""
    batch = spec.numerics.batch
    return Passes(numerics.pass_size(batch, "cpu"), numerics.pass_size(batch, _ELSEWHERE))


def gradients(spec: Spec) -> list[Work]:
    """All gradients of a study: each set of source models with the largest pass that an attack has on it."""
    found: dict[tuple[tuple[str, ...], bool], Passes] = {}
    for models, apart, copies in (*_of_experiments(spec), *_of_probes(spec)):
        if models:
            passes, key = _passes(spec, copies), (models, apart)
            before = found.get(key, passes)
            found[key] = Passes(max(before.cpu, passes.cpu), max(before.elsewhere, passes.elsewhere))
    return [Work(models, passes, apart) for (models, apart), passes in found.items()]


def _passes(spec: Spec, copies: int) -> Passes:
    from study.attacks.loop import Engine

    used = spec.numerics
    sizes = [
        Engine(used.batch, used.max_pass_images, device, used.layout).largest(copies) for device in ("cpu", _ELSEWHERE)
    ]
    return Passes(*sizes)


def _of_experiments(spec: Spec) -> Iterator[tuple[tuple[str, ...], bool, int]]:
    """Source models, whether each has gradients of its own, and how many views of an image there are."""
    from study.attacks.objective import per_model

    for experiment in spec.experiments.values():
        for sources in spec.source_sets(experiment):
            for name in experiment.attacks:
                attack = spec.attacks[name]
                yield tuple(sources), per_model(attack.fusion), attack.copies


def _of_probes(spec: Spec) -> Iterator[tuple[tuple[str, ...], bool, int]]:
    from study.attacks.objective import per_model

    for probe in spec.geometry.values():
        looked_at = models_of(spec, probe)
        if probe.probe == "gradient-cosine":
            # What counts of copies have in common is computed at once.
            yield tuple(looked_at), True, math.gcd(*probe.smoothing.copies) if probe.smoothing else 1
            continue
        for direction in probe.directions:
            copies = direction.smoothing.copies if direction.smoothing else 1
            attack = spec.attacks[direction.attack] if direction.attack else None
            for model in looked_at:
                yield (
                    tuple(direction.models(model)),
                    attack is not None and per_model(attack.fusion),
                    copies if attack is None else attack.copies,
                )
