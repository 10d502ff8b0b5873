"""Texts and number formats that several tables use: definitions of rates, names of attacks, decimals, RMSD ranges."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from study.attacks import Attack
from study.images.selection import Shard, rule_breakers
from study.spec.schema import Spec

_HALF = 1e-9
"""A number that is larger than the rounding error of a float, but smaller than any difference between two rates."""

IMAGE_KINDS: Mapping[str, str] = {
    "imagenet": "ImageNet",
    "cifar10": "CIFAR-10",
    "mnist": "MNIST",
    "fashion-mnist": "Fashion-MNIST",
}
"""The name of the data set in texts, by label set."""


def correct_when_clean(spec: Spec, shards: Sequence[Shard]) -> str | None:
    """Return in words which models classify every selected image correctly; None if the spec asks this of no model.

    Models that joined the study later, and misclassify images that were selected before, are named as exceptions. If
    the spec names models, they are left out instead; None if no model remains.
    """
    keep = spec.images.keep
    if keep == "all":
        return None
    if isinstance(keep, tuple):
        asked = keep
    else:
        asked = tuple(spec.predicting_sources() if keep == "correct-for-sources" else spec.predicting)
    wrong = rule_breakers(shards, [name for name in asked if name not in spec.services])
    if isinstance(keep, tuple):
        right = [name for name in keep if name not in wrong]
        if not right:
            return None
        return f"that {listed(right)} {'classifies' if len(right) == 1 else 'classify'} correctly when clean"
    every = "every source model" if keep == "correct-for-sources" else "every model"
    but = f" except {listed(wrong)}" if wrong else ""
    return f"that {every}{but} classifies correctly when clean"


def listed(given: Iterable[str], last: str = "and") -> str:
    """Return words as a list in a sentence: `a, b and c`, with the word `last` before the last one."""
    *first, final = list(given) or [""]
    return f"{', '.join(first)} {last} {final}" if first else final


SUCCESS_RATE: Mapping[str, str] = {
    "untargeted": "Untargeted success rate (%): adversarial images that the target misclassifies",
    "targeted": "Targeted success rate (%): adversarial images that the target classifies as the target label",
}
"""The definition of the success rate, by goal."""

AT_COST = (
    "Mean black-box success rate (%) of an attack at its last checkpoint that needs at most this number of gradients "
    "per image and source model; a dash if no checkpoint does"
)

SERVICE_SUCCESS = (
    "Remote service: an untargeted image succeeds if the service returns none of the labels that it returned for the "
    "clean image; a targeted image succeeds if it returns the target label"
)
CHAT_SUCCESS = (
    "Chat service: its judge finds the labels that an answer names. An untargeted image succeeds if the true label is "
    "not among these labels. A targeted image succeeds if the target label is among them. A refusal is no success"
)
QUERIES = (
    "Limited queries: the service receives the images of an attack's checkpoints and budgets one after another, until "
    "one of them succeeds or the allowed number of queries is reached"
)
BLACK_BOX_MEAN = "Black-box mean: mean of the black-box rates; white-box and grey-box rates do not count"
CLEAN_ACCURACY = "Clean images: top-1 accuracy (%) of each target on all images of the clean pass, before selection"
CLEAN_CORRECT = (
    "In parentheses: the rate over the images that the target classifies correctly when clean; a dash if "
    "there is no such image"
)
RMSD = "RMSD: mean over images, in pixel values 0..255"

MEASURES: Mapping[str, tuple[str, str]] = {
    "gradients": ("cost", "cost, gradients per image"),
    "psnr": ("PSNR", "peak signal-to-noise ratio (mean), decibels"),
    "ssim": ("SSIM", "structural similarity (mean); 1: identical images"),
    "ciede2000": ("CIEDE2000", "colour difference CIEDE2000 (mean); 1: just noticeable"),
    "lpips": ("LPIPS", "LPIPS (mean); 0: identical images"),
}
"""The name of each measure of cost or visibility and the label of its axis, by column of `analysis.visibility`."""

VISIBILITY = (
    "PSNR (decibels), SSIM (at most 1), CIEDE2000 and LPIPS (at least 0, if computed): means over the adversarial "
    "images; success: mean over black-box targets, %; front: marks a row if no other row is at least as good in "
    "success, gradients and SSIM, and better in at least one of the three"
)


def visibility_numbers(one: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the numbers of a row of `analysis.visibility` as texts, in the order of `VISIBILITY_HEAD`.

    The last text is `*` if the row is on the Pareto front, otherwise empty.
    """
    numbers = ("–" if one[column] is None else format(one[column], form) for column, form in _FORMS)
    success = "–" if one["success"] is None else f"{100 * one['success']:.1f}"
    return (success, *numbers, "*" if one["front"] else "")


_FORMS = (
    *(("gradients", ",.0f"), ("rmsd", ".2f"), ("psnr", ".1f")),
    *(("ssim", ".3f"), ("ciede2000", ".2f"), ("lpips", ".4f")),
)

VISIBILITY_HEAD = ("success", "gradients", "RMSD", "PSNR", "SSIM", "CIEDE2000", "LPIPS", "front")
"""The headings of the columns whose texts `visibility_numbers` returns."""


def visibility_columns(found: pl.DataFrame) -> list[int]:
    """Return the indices of the columns in `VISIBILITY_HEAD` that a table shows: LPIPS only if it was computed.

    `found`: the result of `analysis.visibility`.
    """
    without = {VISIBILITY_HEAD.index("LPIPS")} if found["lpips"].null_count() == found.height else set()
    return [place for place in range(len(VISIBILITY_HEAD)) if place not in without]


def service_notes(spec: Spec, targets: Iterable[str]) -> list[str]:
    """Return notes on when an image succeeds on the services among the targets. The notes have no full stop."""
    remotes = [remote for name in targets if (remote := spec.models[name].remote) is not None]
    notes = [SERVICE_SUCCESS] if any(one.api == "labels" for one in remotes) else []
    notes += [CHAT_SUCCESS] if any(one.api == "chat" for one in remotes) else []
    return notes + ([QUERIES] if any(one.queries for one in remotes) else [])


def point_name(attack: str, recipe: Attack, steps: int, level: float | None) -> str:
    """Return the name of an attack at one point (number of steps and budget).

    The name has the number of steps if the attack has checkpoints, and the budget if it has several budgets.
    """
    parts = [attack]
    if recipe.checkpoints:
        parts.append(f"{steps} step{'s' if steps > 1 else ''}")
    if len(recipe.budget.levels) > 1:
        parts.append(f"{recipe.budget.kind} {level:g}")
    return ", ".join(parts)


def fixed(value: float, decimals: int) -> str:
    """Return `value` as text with this number of decimals.

    Halves are rounded away from 0: 62.5 becomes 63, while `format` would make it 62.
    """
    return f"{value + math.copysign(_HALF, value):.{decimals}f}" if value else f"{value:.{decimals}f}"


def rate_decimals(images: int) -> int:
    """Return the number of decimals for a percentage of `images` images: 0 up to 100, 1 up to 1,000, otherwise 2."""
    return 0 if images <= 100 else 1 if images <= 1000 else 2


def count_range(counts: Iterable[int]) -> str:
    """Return the number of images of a table row as text, or the range from the smallest to the largest of `counts`.

    The numbers differ if some targets have rows for a part of the images only, or if a model joined later and has
    answers to a part of the clean images only.
    """
    known = sorted(counts) or [0]
    return f"{known[0]:,}" if known[0] == known[-1] else f"{known[0]:,} to {known[-1]:,}"


def rmsd_range(values: Sequence[float]) -> str:
    """Return the RMSD of a table row as text, or the range from the smallest to the largest of `values`.

    The values differ if the attack searches its own RMSD for each target.
    """
    low, high = min(values), max(values)
    return f"{low:.2f}" if high - low < 0.005 else f"{low:.2f} to {high:.2f}"
