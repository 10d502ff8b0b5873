"""Makes warnings about doubtful numbers of a run: models that only guess, and attacks that change no pixel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

from study.attacks import Attack
from study.images import clean_accuracy
from study.images.clean_accuracy import Right
from study.spec.schema import Spec


def known(spec: Spec, models: Mapping[str, Mapping[str, Any]], images: Callable[[], pl.DataFrame]) -> dict[str, Right]:
    """Return the numbers of correct answers to clean images, by model. Models without known numbers are left out.

    `models`: the recorded descriptions of the models. In old runs, they do not have these numbers. The numbers can then
    be counted in the selected images, if the selection did not depend on correct answers. `images`: a function that
    returns the table `images.parquet`; it is called only in this case.
    """
    found = clean_accuracy.recorded(models)
    lacking = [name for name in spec.models if name not in found and name not in spec.services]
    if lacking and spec.images.keep == "all":
        found = {**clean_accuracy.of_selected(images()), **found}
    return {name: found[name] for name in spec.models if name in found}


def of_models(spec: Spec, right: Mapping[str, Right], models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a sentence, with a probable cause, for each model whose clean accuracy is no better than guessing.

    `right`: the result of `known`. `models`: the recorded descriptions of the models. Models with random weights are
    left out, because they are expected to guess.
    """
    return clean_accuracy.doubts(_trained(spec, right), models, len(spec.labels))


def guessing(spec: Spec, right: Mapping[str, Right]) -> list[str]:
    """Return the names of the models that `of_models` warns about. `right`: the result of `known`."""
    return [name for name, one in _trained(spec, right).items() if clean_accuracy.guesses(one, len(spec.labels))]


def _trained(spec: Spec, right: Mapping[str, Right]) -> dict[str, Right]:
    """Return `right` without the models that have random weights."""
    random = {name for name, one in spec.models.items() if str(one.weights).startswith("random:")}
    return {name: right[name] for name in spec.models if name in right and name not in random}


def of_attacks(spec: Spec, cells: pl.DataFrame) -> list[str]:
    """Return a sentence for each attack that changed no pixel: its RMSD is 0 in all its cells.

    `cells`: the result of `experiments.cells`.
    """
    still = cells.group_by("attack").agg(pl.col("rmsd").max()).filter(pl.col("rmsd") == 0)["attack"].to_list()
    return [f"attack '{name}' changed no pixel: {_cause(spec.attacks[name])}" for name in spec.attacks if name in still]


def _cause(recipe: Attack) -> str:
    if recipe.precomputed is not None:
        return "its precomputed images equal the clean images"
    levels = [one for one in recipe.budget.levels if one is not None]
    if levels and max(levels) <= 1 and recipe.budget.rule is None:
        budgets = ", ".join(f"{one:g}" for one in levels)
        return (
            f"its {recipe.budget.kind} is {budgets}, but pixel values are 0..255: write 8 for a budget of 8/255 in "
            "the range 0..1"
        )
    return (
        "its gradients were 0 for every image, or its steps were smaller than the rounding of pixel values. Check the "
        "answers of its source models to clean images"
    )
