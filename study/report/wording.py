"""Words and number formats that tables share: definitions of the rates, names of attacks, decimals, RMSD ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from study.attacks import Attack

IMAGE_KINDS: Mapping[str, str] = {
    "imagenet": "ImageNet",
    "cifar10": "CIFAR-10",
    "mnist": "MNIST",
    "fashion-mnist": "Fashion-MNIST",
}
"""By label set."""

SUCCESS_RATE: Mapping[str, str] = {
    "untargeted": "Untargeted success rate (%): adversarial images that the target misclassifies",
    "targeted": "Targeted success rate (%): adversarial images that the target classifies as the target label",
}
"""By goal."""

AT_COST = (
    "Mean black-box success rate (%) at the last checkpoint within so many gradients of one image per source model; a "
    "dash where the first step takes more"
)

SERVICE_SUCCESS = (
    "Remote service: an untargeted image succeeds if the service returns none of the labels that it returned for the "
    "clean image; a targeted image succeeds if it returns the target label"
)
BLACK_BOX_MEAN = "Black-box mean: mean of the black-box rates; white-box and grey-box rates do not count"
CLEAN_ACCURACY = "Clean images: top-1 accuracy (%) of each target on all images of the clean pass, before selection"
RMSD = "RMSD: mean over images, in pixel values 0..255"

MEASURES: Mapping[str, tuple[str, str]] = {
    "gradients": ("cost", "cost, gradients per image"),
    "psnr": ("PSNR", "peak signal-to-noise ratio (mean), decibels"),
    "ssim": ("SSIM", "structural similarity (mean); 1: equal"),
    "ciede2000": ("CIEDE2000", "colour difference CIEDE2000 (mean); 1: just seen"),
}
"""By column: the name of a measure of cost or visibility, and its axis."""

VISIBILITY = (
    "PSNR (decibels), SSIM (up to 1) and CIEDE2000 (from 0): means over adversarial images; success: mean of black-box "
    "targets, %; front: no other attack is as good in success, gradients and SSIM, and better in one of them"
)


def visibility_numbers(one: Mapping[str, Any]) -> tuple[str, ...]:
    """Success, gradients, RMSD, PSNR, SSIM, CIEDE2000 and the mark of the front, of a row of `analysis.visibility`."""
    forms = (("gradients", ",.0f"), ("rmsd", ".2f"), ("psnr", ".1f"), ("ssim", ".3f"), ("ciede2000", ".2f"))
    numbers = ("–" if one[column] is None else format(one[column], form) for column, form in forms)
    success = "–" if one["success"] is None else f"{100 * one['success']:.1f}"
    return (success, *numbers, "*" if one["front"] else "")


VISIBILITY_HEAD = ("success", "gradients", "RMSD", "PSNR", "SSIM", "CIEDE2000", "front")
"""The heads of `visibility_numbers`."""


def point_name(attack: str, recipe: Attack, steps: int, level: float | None) -> str:
    """The attack, with its steps if it has checkpoints and its budget if it has several."""
    parts = [attack]
    if recipe.checkpoints:
        parts.append(f"{steps} step{'s' if steps > 1 else ''}")
    if len(recipe.budget.levels) > 1:
        parts.append(f"{recipe.budget.kind} {level:g}")
    return ", ".join(parts)


def rate_decimals(images: int) -> int:
    """The decimals of a percentage that `images` images support."""
    return 0 if images <= 100 else 1 if images <= 1000 else 2


def rmsd_range(values: Sequence[float]) -> str:
    """The RMSD of a row, or its range over targets if each of them searched for its own."""
    low, high = min(values), max(values)
    return f"{low:.2f}" if high - low < 0.005 else f"{low:.2f} to {high:.2f}"
