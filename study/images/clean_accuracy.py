"""How often models are right on clean images, and what may be wrong where they are not: labels, or the input's range.

A success rate says nothing of a target that gets clean images wrong: so every launch, table and report has these
counts. They are of all images that the clean pass asked about, before any rule selected some of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import polars as pl

KEY = "clean"
"""Where the counts stand in what is recorded of a model."""

_ENOUGH = 8
"""Fewer images say nothing about a model."""
_CHANCE, _CLEAR = 0.05, 0.0005


@dataclass(frozen=True)
class Right:
    """Of `images` clean ones, how many a model gives their label; and how many it would give, were every label one
    lower, or one higher."""

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
        """0..1; there are images."""
        return self.right / self.images


def tally(answers: Iterable[tuple[int, Mapping[str, int]]]) -> dict[str, Right]:
    """By model, the counts over images: the label of each, and the label that each model gives it."""
    counts: dict[str, list[int]] = {}
    for label, said in answers:
        for name, one in said.items():
            count = counts.setdefault(name, [0, 0, 0, 0])
            count[0] += 1
            if -1 <= one - label <= 1:
                count[{0: 1, -1: 2, 1: 3}[one - label]] += 1
    return {name: Right(*count) for name, count in counts.items()}


def recorded(models: Mapping[str, Mapping[str, Any]]) -> dict[str, Right]:
    """The counts in what is recorded of models, those of earlier versions, which recorded none, left out."""
    keys = {one.name for one in fields(Right)}
    return {
        name: Right(**counts)
        for name, one in models.items()
        if isinstance(counts := one.get(KEY), dict) and counts.keys() == keys
    }


def described(
    models: Mapping[str, Mapping[str, Any]], before: Mapping[str, Mapping[str, Any]], further: Mapping[str, Right]
) -> dict[str, dict[str, Any]]:
    """What is recorded of `models`, with the counts of what was recorded `before` and of `further` images.

    Of a model whose earlier images nobody counted a count of further ones would be of a part: it has none.
    """
    counts = recorded(before)
    for name, one in further.items():
        if name in counts or name not in before:
            counts[name] = counts.get(name, Right()) + one
    return {name: {**one, KEY: asdict(counts[name])} if name in counts else dict(one) for name, one in models.items()}


def of_selected(frame: pl.DataFrame) -> dict[str, Right]:
    """The counts over selected images, as `images.parquet` has them; services have no label that could be right."""
    top = pl.col("clean").struct.field("top5").list.first()
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
            (pl.col("top") == label - 1).sum().alias("lower"),
            (pl.col("top") == label + 1).sum().alias("higher"),
        )
    )
    return {model: Right(*counts) for model, *counts in counted.iter_rows()}


def told(found: Mapping[str, Right]) -> str:
    """The counts in one line."""
    each = [
        f"{name} {one.right} of {one.images} ({100 * one.share:.0f} %)" for name, one in found.items() if one.images
    ]
    return f"clean accuracy: {', '.join(each)}"


def doubts(found: Mapping[str, Right], models: Mapping[str, Mapping[str, Any]], labels: int) -> list[str]:
    """A sentence for each model that is right no more often than a guess among `labels`, of eight images or more.

    It says what would fit: labels shifted by one, where these fit clearly (p below 0.0005 for a guess), or another
    range of the input, where the model's mean lies outside the range that it is given. `models` is what is recorded of
    each.
    """
    lines = []
    for name, one in found.items():
        if not guesses(one, labels):
            continue
        reasons = [*_shifted(one, labels), *_ranged(models.get(name, {}))]
        what = f"'{name}' is right about {one.right} of {one.images} clean images, no more than by guessing"
        lines.append(f"{what}: {'; '.join(reasons) or _OTHERWISE}")
    return lines


_OTHERWISE = "see its weights, its preprocessing (mean, std, range, channels), and the labels of the images"


def guesses(one: Right, labels: int) -> bool:
    """Whether a guess is right as often, for all that its images can tell: exact binomial test, one-sided, at 0.05."""
    return one.images >= _ENOUGH and _at_least(one.right, one.images, 1 / labels) > _CHANCE


def _shifted(one: Right, labels: int) -> list[str]:
    found = []
    for count, way, cause in (
        (one.one_lower, "lower", "are they counted from 1, where the label set counts from 0?"),
        (one.one_higher, "higher", "does their list leave out a first class, such as a background?"),
    ):
        if count > one.right and _at_least(count, one.images, 1 / labels) < _CLEAR:
            found.append(f"were every label one {way}, it would be right about {count} of {one.images}: {cause}")
    return found


def _ranged(model: Mapping[str, Any]) -> list[str]:
    mean, std, scale = (model.get(key) for key in ("mean", "std", "scale"))
    if not isinstance(mean, Sequence) or not isinstance(std, Sequence) or not mean or not std:
        return []
    if scale == 255 and max(mean) > 1:
        return [f"its mean {max(mean):g} lies outside the range 0..1 of its input: `range: 255` would fit"]
    if scale == 1 and max(mean) <= 1 and max(std) < 1:
        return [f"its mean {max(mean):g} and std {max(std):g} are those of an input 0..1: `range: 1` would fit"]
    return []


def _at_least(hits: int, images: int, share: float) -> float:
    """The chance of as many hits or more, each with the chance `share` (0..1, both excluded)."""
    whole = math.lgamma(images + 1)
    fewer = (
        whole - math.lgamma(count + 1) - math.lgamma(images - count + 1)
        + count * math.log(share) + (images - count) * math.log1p(-share)
        for count in range(hits)
    )  # fmt: skip
    return max(0.0, 1.0 - math.fsum(map(math.exp, fewer)))
