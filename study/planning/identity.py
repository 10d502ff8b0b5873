"""All ids of a study, made in one place: of attack runs, of their units, and of the units of probes.

An id contains a digest of everything that decides the pixels or rows behind it, and of nothing else. Equal ids mean
equal pixels, so that a finished unit never runs again. A change of a digest here makes every finished study start
again: tests/golden pins ids.

Only what is present counts: components with their names, versions and the parameters that are not at their defaults. So
a new optional key, or a new component, changes no id. A default that changes is another version of its component;
tests/golden pins the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from study.attacks.recipe import Attack
from study.images.location import Stored, file_digest
from study.images.selection import Selected, Shard
from study.planning import identity_format1
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
    recipe = spec.attacks[attack]
    content: dict[str, Any] = {
        "sources": [(name, digests[name]) for name in sources],
        "goal": goal,
        "seed": seed,
    }
    if spec.format == 1:
        content |= identity_format1.attack_run(spec, attack, reference, matched_images, pool)
    else:
        content |= {
            "format": spec.format,
            "attack": (attack, recipe_identity(recipe, sources)),
            "images": _prepared(spec),
            "numerics": spec.numerics.identity(),
        }
        if reference is not None:
            content["reference"] = reference
        if matched_images is not None:
            # In the order of their ids: the selection may have grown image by image.
            content["matched to"] = sorted((one.image, one.digest, *_labels(one, goal)) for one in matched_images)
        if pool:
            content["pool"] = [(one.image, one.digest, one.label) for one in pool]
    if precomputed is not None:
        content["made"] = [(image, file_digest(stored)) for image, stored in sorted(precomputed.items())]
    return f"{'+'.join(sources) or 'elsewhere'}.{attack}.{goal}.s{seed}-{digest(content)[:_LENGTH]}"


def recipe_identity(attack: Attack, sources: Sequence[str]) -> dict[str, Any]:
    """Return what decides the pixels of an attack on `sources`, as plain data: what is present, and no defaults."""
    if attack.external is not None:
        budget = attack.budget.model_dump(mode="json", exclude_defaults=True)
        return {"external": attack.external.identity(), "budget": budget}
    found: dict[str, Any] = {
        "components": [component.identity() for component in attack.assembly if component.kind != "budget"],
        "steps": attack.steps,
        "budget": attack.budget.identity(),
    }
    size = attack.learning_rate if attack.step == "adam" else attack.step_size or attack.automatic_step_size
    # Without it the size of a step follows from each image's own budget.
    if size is not None:
        found["step size"] = size
    if attack.first is not None:
        found["first"] = recipe_identity(attack.first, sources)
    if attack.checkpoints:
        found["checkpoints"] = list(attack.checkpoints)
    weights = {name: attack.weights[name] for name in sources if name in attack.weights}
    if weights:
        found["weights"] = weights
    return found


def _labels(one: Selected, goal: str) -> tuple[int, ...]:
    return (one.label, one.target_label) if goal == "targeted" else (one.label,)


def unit_id(run: str, shard: Shard, goal: str, *, reads_true_labels: bool) -> str:
    """Return the id of one attack run, by its id, on one shard: it adds the images' pixels and labels."""
    return f"{run}.{shard.index:04d}-{shard.contents[goal, reads_true_labels][:_LENGTH]}"


def probe_unit_id(
    spec: Spec, digests: Mapping[str, str], *, name: str, models: Sequence[str], sources: Sequence[str], shard: Shard
) -> str:
    """Return the id of probe `name` of `models` on one shard. `sources` are the source models of its directions."""
    probe = spec.geometry[name]
    content: dict[str, Any] = {
        "models": [(one, digests[one]) for one in models],
        "sources": [(one, digests[one]) for one in sources],
        "seeds": (spec.seed, spec.first_attack_seed if probe.attacks else None),
        "images": _prepared(spec),
    }
    left_out = {"models", "images"}
    if spec.format == 1:
        content |= identity_format1.probe(spec, name, left_out)
    else:
        content |= {
            "format": spec.format,
            "probe": (name, probe.model_dump(mode="json", exclude=left_out, exclude_defaults=True)),
            "attacks": [(one, recipe_identity(spec.attacks[one], sources)) for one in probe.attacks],
            "numerics": spec.numerics.identity(),
        }
    images = [(one.image, one.digest, one.label, one.target_label) for one in shard.images]
    called = models[0] if len(models) == 1 else f"{len(models)}-models"
    return f"{name}.{called}.{shard.index:04d}-{digest(content, images)[:_LENGTH]}"


def _prepared(spec: Spec) -> tuple[int, str]:
    """The settings that turn a file into the pixels of the study."""
    return spec.images.size, spec.images.preparation
