"""The content of ids in run folders of format 1: every key of an attack, including keys with their default values.

Commands still read run folders of format 1, but no launch continues such a run. This file must never change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from study.attacks.part import Part
from study.attacks.recipe import Attack
from study.images.selection import Selected
from study.spec.schema import Spec

_BUDGET = ("epsilon", "l2", "rmsd", "minimal", "to", "by")
_NUMERICS = ("batch", "threads", "max_pass_images", "fold", "layout", "precision", "compile")


def attack_run(
    spec: Spec,
    attack: str,
    reference: str | None,
    matched_images: Sequence[Selected] | None,
    pool: Sequence[Selected],
) -> dict[str, Any]:
    """Return the values that enter an attack run's id, as far as they differ from those of format 2."""
    images = None if matched_images is None else sorted((one.image, one.digest) for one in matched_images)
    return {
        "attack": (attack, _recipe(spec.attacks[attack])),
        "reference": reference,
        "images": (
            spec.images.size,
            spec.images.preparation,
            images,
            [(one.image, one.digest, one.label) for one in pool],
        ),
        "numerics": _numerics(spec),
    }


def probe(spec: Spec, name: str, left_out: set[str]) -> dict[str, Any]:
    """Return the values that enter a probe unit's id, as far as they differ from those of format 2."""
    found = spec.geometry[name]
    return {
        "probe": (name, found.model_dump(mode="json", exclude=left_out)),
        "attacks": [_recipe(spec.attacks[one]) | {"made": spec.attacks[one].precomputed} for one in found.attacks],
        "numerics": _numerics(spec),
    }


def _recipe(attack: Attack) -> dict[str, Any]:
    start = None
    if attack.start is not None:
        start = {
            "random": True if attack.start.name == "random" else None,
            "gaussian": attack.start.parameters.get("sigma"),
        }
    parts: dict[str, Any] = {
        key: None if (part := getattr(attack, key)) is None else part.model_dump(mode="json")
        for key in ("penalty", "diversity", "smoothing", "admix", "skip_gradient", "variance", "kernel")
    }
    return {
        "objective": _name(attack.objective),
        "fusion": _name(attack.fusion),
        "weights": dict(attack.weights),
        "scales": attack.scales,
        "momentum": attack.momentum,
        "nesterov": attack.nesterov,
        "step": _name(attack.step),
        "step_size": attack.step_size,
        "learning_rate": attack.learning_rate,
        "start": start,
        "steps": attack.steps,
        "checkpoints": list(attack.checkpoints),
        "budget": attack.budget.model_dump(mode="json", include=set(_BUDGET)),
        **parts,
    }


def _name(given: str | Part) -> str:
    return given.name if isinstance(given, Part) else given


def _numerics(spec: Spec) -> dict[str, Any]:
    # Format 1 had no precision `auto`, so replace it.
    return spec.numerics.settled("cpu").model_dump(mode="json", include=set(_NUMERICS), by_alias=True)
