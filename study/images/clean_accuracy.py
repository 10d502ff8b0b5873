"""Clean accuracy of models, and likely causes if a model is no better than chance: its labels, or its range of inputs.

The success rate of an attack means nothing for a target that misclassifies clean images. Therefore launches, tables and
reports show the counts of correct predictions. The counts cover all images of the clean pass, before any selection.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import polars as pl

from study.images.labels import ABSTAINED

KEY = "clean"
"""The key under which the record of a model has the counts."""

_ENOUGH = 8
"""Smallest number of images that allows a conclusion."""
_CHANCE, _CLEAR = 0.05, 0.0005


@dataclass(frozen=True)
class Right:
    """The numbers of correct predictions of one model on `images` clean images.

    `right` counts correct predictions with the given labels. `one_lower` and `one_higher` count the predictions that
    would be correct if every label were 1 lower or 1 higher.
    """

    images: int = 0
    right: int = 0
    one_lower: int = 0
    one_higher: int = 0

    def __add__(self, other: Right) -> Right:
        return Right(
            self.images + other.images,
            self.right + other.right,
            self.one_lower + other.one_lower,
            self.one_higher + other.one_higher,
        )

    @property
    def share(self) -> float:
        """The accuracy, 0..1. `images` must not be 0."""
        return self.right / self.images


def tally(answers: Iterable[tuple[int, Mapping[str, int | None]]]) -> dict[str, Right]:
    """Return the counts of correct predictions by model.

    `answers` has, for each image, its true label and the label that each model predicts. The predicted label of a
    service is None, because services predict no label of the study.
    """
    counts: dict[str, list[int]] = {}
    for label, said in answers:
        for name, one in said.items():
            count = counts.setdefault(name, [0, 0, 0, 0])
            count[0] += 1
            if one is not None and -1 <= one - label <= 1 and one != ABSTAINED:
                count[{0: 1, -1: 2, 1: 3}[one - label]] += 1
    return {name: Right(*count) for name, count in counts.items()}


def recorded(models: Mapping[str, Mapping[str, Any]]) -> dict[str, Right]:
    """Return the counts of correct predictions that the records of models contain, by model.

    Records of earlier versions have no counts, and are left out.
    """
    keys = {one.name for one in fields(Right)}
    return {
        name: Right(**counts)
        for name, one in models.items()
        if isinstance(counts := one.get(KEY), dict) and counts.keys() == keys
    }


def described(
    models: Mapping[str, Mapping[str, Any]], before: Mapping[str, Mapping[str, Any]], further: Mapping[str, Right]
) -> dict[str, dict[str, Any]]:
    """Return the records of `models`, each with its counts of correct predictions.

    The counts are the sum of those in the earlier records `before` and those in `further`. A model that has an earlier
    record without counts gets no counts, because they would be incomplete.
    """
    counts = recorded(before)
    for name, one in further.items():
        if name in counts or name not in before:
            counts[name] = counts.get(name, Right()) + one
    return {name: {**one, KEY: asdict(counts[name])} if name in counts else dict(one) for name, one in models.items()}


def of_selected(frame: pl.DataFrame) -> dict[str, Right]:
    """Return the counts of correct predictions on the selected images in `images.parquet`, by model.

    Services are left out, because they predict no label.
    """
    answer = pl.col("clean").struct
    top = answer.field("top5").list.first()
    if any(one.name == "abstained" for one in frame.schema["clean"].inner.fields):  # type: ignore[attr-defined]
        top = pl.when(answer.field("abstained")).then(pl.lit(ABSTAINED, pl.Int32)).otherwise(top)
    label = pl.col("label")
    counted = (
        frame.select("label", "clean")
        .explode("clean")
        .select(pl.col("clean").struct.field("model").alias("model"), label, top.alias("top"))
        .filter(pl.col("top").is_not_null())
        .group_by("model", maintain_order=True)
        .agg(
            pl.len(),
            (pl.col("top") == label).sum().alias("right"),
            ((pl.col("top") == label - 1) & (pl.col("top") != ABSTAINED)).sum().alias("lower"),
            (pl.col("top") == label + 1).sum().alias("higher"),
        )
    )
    return {model: Right(*counts) for model, *counts in counted.iter_rows()}


def told(found: Mapping[str, Right]) -> str:
    """Return the counts of correct predictions of all models as one line of text."""
    each = [
        f"{name} {one.right} of {one.images} ({100 * one.share:.0f} %)" for name, one in found.items() if one.images
    ]
    return f"clean accuracy: {', '.join(each)}"


def doubts(found: Mapping[str, Right], models: Mapping[str, Mapping[str, Any]], labels: int) -> list[str]:
    """Return a sentence for each model whose accuracy is no better than a guess among `labels` labels.

    Models with fewer than eight images are left out. The sentence names likely causes. One cause is shifted labels: it
    is named if the predictions agree with labels shifted by 1 so often that guesses would do so with a probability
    below 0.0005. Another cause is the range of the input: it is named if the model's mean and std do not fit this
    range. `models` are the records of the models.
    """
    lines = []
    for name, one in found.items():
        if not guesses(one, labels):
            continue
        reasons = [*_shifted(one, labels), *_ranged(models.get(name, {}))]
        what = f"'{name}' classifies {one.right} of {one.images} clean images correctly, no more than by chance"
        lines.append(f"{what}: {'; '.join(reasons) or _OTHERWISE}")
    return lines


_OTHERWISE = "check its weights, its preprocessing (mean, std, range, channels), and the labels of the images"


def guesses(one: Right, labels: int) -> bool:
    """Return whether the accuracy is compatible with guessing, by a one-sided exact binomial test at the level 0.05.

    Return False for fewer than eight images.
    """
    return one.images >= _ENOUGH and _at_least(one.right, one.images, 1 / labels) > _CHANCE


def _shifted(one: Right, labels: int) -> list[str]:
    found = []
    for count, way, cause in (
        (one.one_lower, "lower", "do the labels of the images count from 1, but the label set from 0?"),
        (one.one_higher, "higher", "does the list of labels leave out a first class, such as a background?"),
    ):
        if count > one.right and _at_least(count, one.images, 1 / labels) < _CLEAR:
            found.append(f"with every label one {way}, {count} of {one.images} would be correct: {cause}")
    return found


def _ranged(model: Mapping[str, Any]) -> list[str]:
    mean, std, scale = (model.get(key) for key in ("mean", "std", "scale"))
    if not isinstance(mean, Sequence) or not isinstance(std, Sequence) or not mean or not std:
        return []
    if scale == 255 and max(mean) > 1:
        return [f"its mean {max(mean):g} is outside the range 0..1 of its input: `range: 255` would fit"]
    if scale == 1 and max(mean) <= 1 and max(std) < 1:
        return [f"its mean {max(mean):g} and std {max(std):g} belong to an input in 0..1: `range: 1` would fit"]
    return []


def _at_least(hits: int, images: int, share: float) -> float:
    """Return the probability of at least `hits` hits in `images` trials.

    `share` is the probability of each hit, between 0 and 1, both excluded.
    """
    whole = math.lgamma(images + 1)
    fewer = (
        whole - math.lgamma(count + 1) - math.lgamma(images - count + 1)
        + count * math.log(share) + (images - count) * math.log1p(-share)
        for count in range(hits)
    )  # fmt: skip
    return max(0.0, 1.0 - math.fsum(map(math.exp, fewer)))
