"""Make all ids of a study: ids of attack runs, of their units (one attack run on one shard), and of probe units.

An id contains a digest of everything that determines its pixels or rows, and of nothing else. Equal ids mean equal
pixels, so a finished unit need not run again. If this file changed a digest, every finished study would start again.
Tests in tests/golden fix the ids.

A digest contains only components that are present, with their names, versions and the parameters that differ from the
defaults. So a new optional key or a new component changes no id. If a default changes, the component gets a new
version. Tests in tests/golden fix the defaults.
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
"""Number of hexadecimal digits of a digest in an id."""


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
    """Return the id of an attack run. It covers all that determines an adversarial image, except the clean image.

    Args:
        spec: The spec.
        digests: Digests of the models, by name.
        sources: The names of the source models.
        attack: The name of the attack.
        goal: The goal.
        seed: The seed of the attack.
        reference: Id of the attack run whose RMSD the budget is matched to; None for other budgets.
        matched_images: All selected images, if the budget is matched to their mean RMSD; None otherwise.
        pool: The images that the attack mixes into other images.
        precomputed: Files of precomputed images, by the id of the clean image; None for other attacks.
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
            # Sort by image id, because the order of the selection depends on which launches added images.
            content["matched to"] = sorted((one.image, one.digest, *_labels(one, goal)) for one in matched_images)
        if pool:
            content["pool"] = [(one.image, one.digest, one.label) for one in pool]
    if precomputed is not None:
        content["made"] = [(image, file_digest(stored)) for image, stored in sorted(precomputed.items())]
    return f"{'+'.join(sources) or 'elsewhere'}.{attack}.{goal}.s{seed}-{digest(content)[:_LENGTH]}"


def recipe_identity(attack: Attack, sources: Sequence[str]) -> dict[str, Any]:
    """Return all values of a recipe that determine pixels of an attack on `sources`, as plain data without defaults."""
    if attack.external is not None:
        budget = attack.budget.model_dump(mode="json", exclude_defaults=True)
        return {"external": attack.external.identity(), "budget": budget}
    found: dict[str, Any] = {
        "components": [component.identity() for component in attack.assembly if component.kind != "budget"],
        "steps": attack.steps,
        "budget": attack.budget.identity(),
    }
    size = attack.learning_rate if attack.step == "adam" else attack.step_size or attack.automatic_step_size
    # `size` is None if the step size follows from the budget of each image.
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
    """Return the id of a unit: the attack run with the id `run` on the images of `shard`.

    The id also contains a digest of the pixels and labels of these images. `reads_true_labels` says whether the attack
    reads the true labels even if the goal is targeted.
    """
    return f"{run}.{shard.index:04d}-{shard.contents[goal, reads_true_labels][:_LENGTH]}"


def probe_unit_id(
    spec: Spec, digests: Mapping[str, str], *, name: str, models: Sequence[str], sources: Sequence[str], shard: Shard
) -> str:
    """Return the id of the unit in which the probe `name` measures `models` on the images of `shard`.

    `sources` are the source models of the attacks whose perturbations are directions of the probe.
    """
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
    """Return the settings by which image files become pixels: the size and a description of the preparation."""
    return spec.images.size, spec.images.preparation
