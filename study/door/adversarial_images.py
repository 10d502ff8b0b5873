"""The adversarial images that a run kept, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from study.door.choices import Option
from study.errors import StudyError
from study.images.selected_pixels import SelectedPixels
from study.images.selection import Selected
from study.results import kept_images
from study.results.run_reader import RunData
from study.storage.run_folder import RunFolder
from study.terminal.screen import counted


@dataclass(frozen=True, eq=False)
class AdversarialImages:
    """The images of one attack run after one number of steps and with one budget, sorted by id.

    In the shapes, N is the number of images, C is the number of channels, and S is the height and width in pixels.

    Attributes:
        pixels: The adversarial images, `uint8` (N, C, S, S).
        clean: The clean images, `uint8` (N, C, S, S).
        ids: The ids of the clean images, as in the column `image` of the rows.
        labels: The true labels, `int64` (N,).
        target_labels: The target labels, `int64` (N,); None for an untargeted goal.
        craft: The id of the attack run.
        attack: The name of the attack.
        sources: The names of the source models.
        goal: The goal: `untargeted` or `targeted`.
        seed: The seed of the attack.
        steps: The number of attack steps that made these images.
        budget: The size of the budget, in pixel values; None if the attack has no budget.
    """

    pixels: NDArray[np.uint8]
    clean: NDArray[np.uint8]
    ids: tuple[str, ...]
    labels: NDArray[np.int64]
    target_labels: NDArray[np.int64] | None
    craft: str
    attack: str
    sources: tuple[str, ...]
    goal: str
    seed: int
    steps: int
    budget: float | None

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"AdversarialImages({self.craft}: {len(self)} images, {self.steps} steps)"


def read_images(folder: RunFolder, data: RunData, rows: pl.LazyFrame, option: Option) -> AdversarialImages:
    """Read the images of `option`: of one attack run after one number of steps and with one budget.

    `rows`: the rows of the run. An image without rows is left out. Raises StudyError if the run has no rows of the
    option, if the run did not keep the images of the option, or if a clean image is missing or has changed.
    """
    recipe = data.spec.attacks[option.attack]
    if recipe.budget.minimal is not None or recipe.precomputed is not None:
        why = (
            f"they are in the folder {recipe.precomputed}"
            if recipe.precomputed is not None
            else "the search finds a different image for each target"
        )
        raise StudyError(f"no run keeps the images of attack '{option.attack}': {why}", where="run.images")
    sources = tuple(option.sources.split("+"))
    mine = pl.col("sources").list.join("+") == option.sources
    found = (
        rows.filter(mine, attack=option.attack, goal=option.goal, seed=option.seed).select("craft", "image").unique()
    ).collect()
    if found.is_empty():
        raise StudyError(
            f"the run has no rows yet of attack '{option.attack}' on {option.sources}, {option.goal}, "
            f"seed {option.seed}",
            where=str(folder.path),
            todo="launch the study",
            status=1,
        )
    (craft,) = found["craft"].unique()
    point = recipe.scored_points.index((option.steps, option.budget))
    with_rows = set(found["image"])
    everything = (one for shard in data.selection.shards for one in shard.images)
    selected = sorted((one for one in everything if one.image in with_rows), key=lambda one: one.image)
    kept = kept_images.deltas(folder, [craft], [one.image for one in selected], point).unique("image")
    by_image = dict(zip(kept["image"], kept["delta"], strict=True))
    lacking = [one.image for one in selected if one.image not in by_image]
    if lacking:
        raise _not_kept(craft, lacking, selected)
    clean = SelectedPixels(data.spec.images, data.spec.seed, selected).read(selected)
    flat = b"".join(by_image[one.image] for one in selected)
    if len(flat) != clean.nbytes:
        raise StudyError(
            f"the kept images of {craft} have another size than the clean images",
            where=str(folder.kept),
            todo=f"run `study verify {folder.path}`",
            status=1,
        )
    targets = [one.target_label for one in selected]
    return AdversarialImages(
        pixels=clean + np.frombuffer(flat, dtype=np.uint8).reshape(clean.shape),
        clean=clean,
        ids=tuple(one.image for one in selected),
        labels=np.array([one.label for one in selected], dtype=np.int64),
        target_labels=np.array(targets, dtype=np.int64) if option.goal == "targeted" else None,
        craft=craft,
        attack=option.attack,
        sources=sources,
        goal=option.goal,
        seed=option.seed,
        steps=option.steps,
        budget=option.budget,
    )


def _not_kept(craft: str, lacking: Sequence[str], selected: Sequence[Selected]) -> StudyError:
    what = f"{len(lacking):,} of {counted(len(selected), 'image')} of {craft}"
    return StudyError(
        f"the run did not keep the images of {craft}"
        if len(lacking) == len(selected)
        else f"the run did not keep {what}, e.g. {lacking[0]}",
        accepted="runs whose spec has `run: {keep_images: true}`",
        todo="launch the study again with this key: the launch computes the missing images again and changes no row",
        status=1,
    )
