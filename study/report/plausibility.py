"""What makes the numbers of a run doubtful, in sentences: models that only guess, attacks that moved nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

from study.attacks import Attack
from study.images import clean_accuracy
from study.images.clean_accuracy import Right
from study.spec.schema import Spec


def known(spec: Spec, models: Mapping[str, Mapping[str, Any]], images: Callable[[], pl.DataFrame]) -> dict[str, Right]:
    """By model, how often it is right about clean images, as far as that is known: services are left out.

    `models` is what is recorded of each. `images`, which gives `images.parquet`, is asked only for runs that began
    before counts were recorded: there selected images tell, unless they were selected by being right.
    """
    found = clean_accuracy.recorded(models)
    lacking = [name for name in spec.models if name not in found and name not in spec.services]
    if lacking and spec.images.keep == "all":
        found = {**clean_accuracy.of_selected(images()), **found}
    return {name: found[name] for name in spec.models if name in found}


def of_models(spec: Spec, right: Mapping[str, Right], models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A sentence for each model that is right about clean images no more often than a guess, and what may be wrong.

    `models` is what is recorded of each. Random weights are left out: they are meant to guess.
    """
    meant = {name for name, one in spec.models.items() if str(one.weights).startswith("random:")}
    found = {name: right[name] for name in spec.models if name in right and name not in meant}
    return clean_accuracy.doubts(found, models, len(spec.labels))


def of_attacks(spec: Spec, cells: pl.DataFrame) -> list[str]:
    """A sentence for each attack of whose rows every RMSD is 0. `cells` are those of `experiments.cells`."""
    still = cells.group_by("attack").agg(pl.col("rmsd").max()).filter(pl.col("rmsd") == 0)["attack"].to_list()
    return [f"attack '{name}' moved no pixel: {_cause(spec.attacks[name])}" for name in spec.attacks if name in still]


def _cause(recipe: Attack) -> str:
    if recipe.precomputed is not None:
        return "the images that were made elsewhere are the clean ones"
    levels = [one for one in recipe.budget.levels if one is not None]
    if levels and max(levels) <= 1:
        of = ", ".join(f"{one:g}" for one in levels)
        return f"its {recipe.budget.kind} is {of}, and pixel values are 0..255: what is 8/255 elsewhere is 8 here"
    return (
        "its gradients were 0 for every image, or its steps were too small to survive rounding: see what its source "
        "models say of clean images"
    )
