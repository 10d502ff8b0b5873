"""All ids of a study, made in one place: of attack runs, of their units, and of the units of probes.

An id contains a digest of everything that decides the pixels or rows behind it. Equal ids mean equal pixels, so that a
finished unit never runs again. A change of a digest here makes every finished study start again: tests/golden pins ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from study.images.location import Stored, file_digest
from study.images.selection import Selected, Shard
from study.reproducibility.hashing import digest
from study.spec.schema import SourceSet, Spec

_LENGTH = 12
"""Hexadecimal digits of a digest in an id."""


def attack_run_id(
    spec: Spec,
    digests: Mapping[str, str],
    *,
    sources: SourceSet,
    attack: str,
    goal: str,
    seed: int,
    reference: str | None,
    matched_images: Sequence[Selected] | None,
    pool: Sequence[Selected],
    precomputed: Mapping[str, Stored] | None,
) -> str:
    """Return the id of an attack run: everything that decides an adversarial image, except the image.

    Args:
        digests: Digests of the models, by name.
        reference: Id of the attack run whose RMSD the budget is matched to.
        matched_images: All selected images, if the budget is matched to their mean.
        pool: The images that the attack mixes into others.
        precomputed: Files of precomputed images, by the id of the clean image.
    """
    # In the order of their ids: the selection may have grown image by image.
    images = None if matched_images is None else sorted((one.image, one.digest) for one in matched_images)
    content: dict[str, Any] = {
        "sources": [(name, digests[name]) for name in sources],
        "attack": (attack, spec.attacks[attack].model_dump(mode="json", exclude={"precomputed"})),
        "reference": reference,
        "goal": goal,
        "seed": seed,
        "images": (*_prepared(spec), images, [(one.image, one.digest, one.label) for one in pool]),
        "numerics": spec.numerics.model_dump(mode="json"),
    }
    if precomputed is not None:
        content["made"] = [(image, file_digest(stored)) for image, stored in sorted(precomputed.items())]
    return f"{'+'.join(sources) or 'elsewhere'}.{attack}.{goal}.s{seed}-{digest(content)[:_LENGTH]}"


def unit_id(run: str, shard: Shard, goal: str, *, reads_true_labels: bool) -> str:
    """Return the id of one attack run, by its id, on one shard: it adds the images' pixels and labels."""
    return f"{run}.{shard.index:04d}-{shard.contents[goal, reads_true_labels][:_LENGTH]}"


def probe_unit_id(
    spec: Spec, digests: Mapping[str, str], *, name: str, models: Sequence[str], sources: Sequence[str], shard: Shard
) -> str:
    """Return the id of probe `name` of `models` on one shard. `sources` are the source models of its directions."""
    probe = spec.geometry[name]
    content: dict[str, Any] = {
        "probe": (name, probe.model_dump(mode="json", exclude={"models", "images"})),
        "models": [(one, digests[one]) for one in models],
        "sources": [(one, digests[one]) for one in sources],
        "attacks": [spec.attacks[one].model_dump(mode="json") for one in probe.attacks],
        "seeds": (spec.seed, spec.first_attack_seed if probe.attacks else None),
        "images": _prepared(spec),
        "numerics": spec.numerics.model_dump(mode="json"),
    }
    images = [(one.image, one.digest, one.label, one.target_label) for one in shard.images]
    called = models[0] if len(models) == 1 else f"{len(models)}-models"
    return f"{name}.{called}.{shard.index:04d}-{digest(content, images)[:_LENGTH]}"


def _prepared(spec: Spec) -> tuple[int, str]:
    """The settings that turn a file into the pixels of the study."""
    return spec.images.size, spec.images.preparation
