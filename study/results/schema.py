"""Defines the columns of a row, which holds the answer of one target to one adversarial image.

Rows do not store whether the attack succeeds; `study.analysis` computes success from rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from study.images.labels import ABSTAINED
from study.planning.plan import Craft, Unit

SCHEMA_VERSION = 5
"""The version of the columns of rows. Every change of the columns increases the version.

Version 1 lacks `top1`. Versions 1 and 2 have `white_box` (whether the target is a source) instead of `relation`.
Versions 1 to 3 lack `ssim`, `ciede2000`, `craft_pass` and `predict_pass`. Versions 1 to 4 lack `true_names`,
`sentence`, `refused`, `queries` and `lpips`."""

SCHEMA = pa.schema(
    [
        pa.field("craft", pa.string(), nullable=False),
        pa.field("unit", pa.string(), nullable=False),
        pa.field("sources", pa.list_(pa.string()), nullable=False),
        pa.field("attack", pa.string(), nullable=False),
        pa.field("goal", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("steps", pa.int32(), nullable=False),
        pa.field("budget", pa.float64()),
        pa.field("gradients", pa.int32(), nullable=False),
        pa.field("image", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("target_label", pa.int32()),
        pa.field("target", pa.string(), nullable=False),
        pa.field("relation", pa.string(), nullable=False),
        pa.field("clean_top1", pa.int32()),
        pa.field("top1", pa.int32()),
        pa.field("top5", pa.list_(pa.int32()), nullable=False),
        pa.field("top5_prob", pa.list_(pa.float32()), nullable=False),
        pa.field("names", pa.list_(pa.string())),
        pa.field("scores", pa.list_(pa.float32())),
        pa.field("clean_names", pa.list_(pa.string())),
        pa.field("wanted_names", pa.list_(pa.string())),
        pa.field("true_names", pa.list_(pa.string())),
        pa.field("sentence", pa.string()),
        pa.field("refused", pa.bool_()),
        pa.field("queries", pa.int32()),
        pa.field("rmsd", pa.float64(), nullable=False),
        pa.field("linf", pa.float64(), nullable=False),
        pa.field("l2", pa.float64(), nullable=False),
        pa.field("ssim", pa.float64()),
        pa.field("ciede2000", pa.float64()),
        pa.field("lpips", pa.float64()),
        pa.field("craft_pass", pa.int32()),
        pa.field("predict_pass", pa.int32()),
    ]
)
"""The columns of a row. Distances are in pixel values 0..255.

- `target_label`: null for an untargeted goal.
- `budget`: the epsilon, RMSD or L2 norm of the attack. In a search for the minimal RMSD: the RMSD that was found. Null
  for an attack without a budget, and for a budget that is matched to another attack.
- `gradients`: number of gradients computed for this image in the first `steps` steps.
- `relation` of the target to the sources: `white`, `grey` or `black`, see `study.planning.relation`.
- `top1`: the first label of `top5`, or -1 (ABSTAINED) if a voting target gave no answer. This column saves queries over
  many millions of rows from reading lists.
- `ssim` (at most 1) and the mean colour difference `ciede2000` (at least 0): how visible the change is, see
  `study.visibility`. Null in a search for the minimal RMSD, and for kept images of an older version of study. `ssim` is
  also null for images with a side of less than 11 pixels.
- `lpips` (at least 0): the distance LPIPS. Null if the spec does not name its weights, and where `ciede2000` is null.
- `craft_pass`: number of images in the smallest batch for which gradients were computed at once. `predict_pass`: number
  of images in a batch of predictions. Both are null as long as memory does not run out. Otherwise batches are halved,
  which changes rounding. `craft_pass` is also null for kept images that targets predicted again.

A remote service has its own labels. For a service, `top5` is empty, and `top1` and `clean_top1` are null. `names` and
`scores` are the service's answer, best first. `clean_names` are the names in its answer for the clean image.
`wanted_names` are its names for the target label (null for an untargeted goal). All names are in lower case. `names`,
`scores`, `clean_names` and `wanted_names` are null for every other target.

For a chat service, `sentence` is the answer, verbatim. `names` are the names of the study's labels that the judge found
in this answer. `clean_names` are the names of labels in the answer for the clean image. `true_names` are the names of
the true label. `refused` says whether the answer is a refusal. `sentence`, `true_names` and `refused` are null for
every other target.

`queries` is null if the spec does not limit how many images an attack run may show to a service for each clean image.
With a limit, the attack run shows its images to the service one after another. The order is that of its points (pairs
of a number of steps and a budget). It stops at the first success. The row of a point then describes the last image that
was shown up to this point. The row has the answer for this image, its distances, and the number of images shown so far
(`queries`)."""


VISIBLE = ("ssim", "ciede2000", "lpips")
"""The columns that `study.visibility` computes: how visible the change of an image is."""


@dataclass(frozen=True)
class PixelDistances:
    """The distances of a unit's adversarial images to the clean images: arrays of float64 (V * N,).

    A unit has N clean images and an attack with V points (pairs of a number of steps and a budget). The values of the N
    images at the first point come first. `rmsd`, `linf` and `l2` are in pixel values 0..255.
    """

    rmsd: NDArray[np.float64]
    linf: NDArray[np.float64]
    l2: NDArray[np.float64]
    ssim: NDArray[np.float64] | None = None
    """Structural similarity of each image, NaN for an image for which it is undefined; None if not computed."""
    ciede2000: NDArray[np.float64] | None = None
    """Mean colour difference of each image; None if not computed."""
    lpips: NDArray[np.float64] | None = None
    """LPIPS of each image; None if not computed."""
    gradients: int | None = None
    """Number of gradients of one image, as a worker counted them; None if the attack's recipe determines the number."""
    passes: int | None = None
    """Number of images in the smallest batch of gradients, if memory ran out; None otherwise."""

    def at(self, places: NDArray[np.int64]) -> PixelDistances:
        """Return the distances of the images with the indices `places`, in the order of `places`."""
        seen: dict[str, Any] = {
            name: None if values is None else values[places] for name, values in self.visible.items()
        }
        return replace(self, rmsd=self.rmsd[places], linf=self.linf[places], l2=self.l2[places], **seen)

    @property
    def visible(self) -> dict[str, NDArray[np.float64] | None]:
        """The measures of visibility, by the name of their column; None for a measure that was not computed."""
        return {name: getattr(self, name) for name in VISIBLE}

    @classmethod
    def zeros(cls, count: int) -> PixelDistances:
        """Return distances of 0 for `count` images.

        A search for the minimal RMSD uses them while it has only the direction of the perturbation, and no image yet.
        """
        return cls(np.zeros(count), np.zeros(count), np.zeros(count))


@dataclass(frozen=True)
class TargetAnswers:
    """One target's answers to a unit's V * N adversarial images.

    A unit has N clean images and an attack with V points (pairs of a number of steps and a budget). The answers to the
    N images at the first point come first.

    `top5` has the K most probable labels of each image, `int32` (V * N, K), best first. K is at most 5. `top5_prob` has
    their probabilities, `float32` (V * N, K). In a search for the minimal RMSD, the images depend on the target. Then
    `distances` are the distances of this target's images, and `budgets` (N,) are their RMSDs.

    A remote service gives `names` and `scores` for each image, best first, and no labels: K is 0. A chat service also
    gives `sentences`; `refused` says for each sentence whether it is a refusal. If the number of queries to a service
    is limited, not every image is shown to the service. Then `shown` (V * N,) has, for each image, the index of the
    image whose answer counts.

    `passes`: the number of images in a batch of predictions, if memory ran out; None otherwise.
    """

    target: str
    top5: NDArray[np.int32]
    top5_prob: NDArray[np.float32]
    distances: PixelDistances | None = None
    budgets: NDArray[np.float64] | None = None
    names: tuple[tuple[str, ...], ...] | None = None
    scores: tuple[tuple[float, ...], ...] | None = None
    sentences: tuple[str, ...] | None = None
    refused: tuple[bool, ...] | None = None
    shown: NDArray[np.int64] | None = None
    passes: int | None = None
    abstained: NDArray[np.bool_] | None = None
    """For each image, whether a target that predicts by votes gave no answer, (V * N,); None if all were answered."""

    @property
    def top1(self) -> NDArray[np.int32] | None:
        """The most probable label of each image (V * N,), or ABSTAINED if there is no answer; None for a service."""
        if self.top5.shape[1] == 0:
            return None
        first: NDArray[np.int32] = self.top5[:, 0]
        return first if self.abstained is None else np.where(self.abstained, np.int32(ABSTAINED), first)


WantedNames = Mapping[str, Mapping[int, tuple[str, ...]]]
"""The names that a remote service has for a label of the study, by model name, then by label.

For services that answer with labels instead of sentences, only the names of target labels are present."""


@dataclass(frozen=True)
class UnitResult:
    """The result of one unit (one attack run on one shard of images).

    Its rows are sorted by target, then by point (number of steps and budget), then by image.
    """

    unit: Unit
    distances: PixelDistances
    answers: Sequence[TargetAnswers]
    wanted: WantedNames = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.unit.shard.images) * len(self.unit.craft.points) * len(self.answers)


def table(results: Sequence[UnitResult]) -> pa.Table:
    """Return the rows of units, one unit after another. One call for many units is much faster than many calls."""
    found = [_columns(one) for one in results]
    joined: dict[str, Any] = {}
    for name in SCHEMA.names:
        values = [columns[name] for columns in found]
        if name in _DISTANCES and values:
            joined[name] = np.concatenate(values)
        elif name in VISIBLE and values:
            joined[name] = nullable(np.concatenate(values))
        else:
            joined[name] = list(itertools.chain.from_iterable(values))
    return pa.table(joined, schema=SCHEMA)


_DISTANCES = ("rmsd", "linf", "l2")


def _columns(result: UnitResult) -> dict[str, Any]:
    unit, distances, answers, wanted = result.unit, result.distances, result.answers, result.wanted
    craft, points = unit.craft, unit.craft.points
    images, targets = unit.shard.images * len(points), len(answers)
    count = len(images)
    targeted = craft.goal == "targeted"
    variants = [point for point in points for _ in unit.shard.images]
    fixed = [budget for _, budget in variants]
    ends = [
        distances.at(answer.shown) if answer.shown is not None else answer.distances or distances for answer in answers
    ]
    gradients = [_gradients(craft, distances, steps) for steps, _ in points]
    top5 = [row for answer in answers for row in answer.top5.tolist()]
    nothing = [None] * count
    return {
        "craft": [craft.id] * (count * targets),
        "unit": [unit.id] * (count * targets),
        "sources": [list(craft.sources)] * (count * targets),
        "attack": [craft.attack] * (count * targets),
        "goal": [craft.goal] * (count * targets),
        "seed": [craft.seed] * (count * targets),
        "steps": [steps for steps, _ in variants] * targets,
        "budget": [
            budget for answer in answers for budget in (fixed if answer.budgets is None else answer.budgets.tolist())
        ],
        "gradients": [each for each in gradients for _ in unit.shard.images] * targets,
        "image": [image.image for image in images] * targets,
        "label": [image.label for image in images] * targets,
        "target_label": [image.target_label if targeted else None for image in images] * targets,
        "target": [answer.target for answer in answers for _ in images],
        "relation": [craft.relations[answer.target] for answer in answers for _ in images],
        "clean_top1": [image.clean[answer.target].top1 for answer in answers for image in images],
        "top1": [one for answer in answers for one in (nothing if answer.top1 is None else answer.top1.tolist())],
        "top5": top5,
        "top5_prob": [row for answer in answers for row in answer.top5_prob.tolist()],
        "names": [one for answer in answers for one in answer.names or nothing],
        "scores": [one for answer in answers for one in answer.scores or nothing],
        "clean_names": [
            image.clean[answer.target].names if answer.names else None for answer in answers for image in images
        ],
        "wanted_names": [
            wanted[answer.target][image.target_label] if answer.names and targeted else None
            for answer in answers
            for image in images
        ],
        "true_names": [
            wanted[answer.target][image.label] if answer.sentences else None for answer in answers for image in images
        ],
        "sentence": [one for answer in answers for one in answer.sentences or nothing],
        "refused": [one for answer in answers for one in answer.refused or nothing],
        "queries": [
            one
            for answer in answers
            for one in (nothing if answer.shown is None else (answer.shown // len(unit.shard.images) + 1).tolist())
        ],
        "rmsd": np.concatenate([end.rmsd for end in ends]),
        "linf": np.concatenate([end.linf for end in ends]),
        "l2": np.concatenate([end.l2 for end in ends]),
        **_visible(ends, count),
        "craft_pass": [distances.passes] * (count * targets),
        "predict_pass": [answer.passes for answer in answers for _ in range(count)],
    }


def _visible(ends: Sequence[PixelDistances], count: int) -> dict[str, NDArray[np.float64]]:
    """Return the measures of visibility by column, for `count` images of each target; NaN where there is none."""
    nothing = np.full(count, np.nan)
    measured = [end.visible for end in ends]
    return {
        name: np.concatenate([nothing if (one := seen[name]) is None else one for seen in measured]) for name in VISIBLE
    }


def nullable(values: NDArray[np.float64]) -> pa.Array[Any]:
    """Return a column of `values`, with null for NaN."""
    return pa.array(values, mask=np.isnan(values))


def _gradients(craft: Craft, distances: PixelDistances, steps: int) -> int | None:
    """Return the number of gradients of one image in `steps` steps; None if the number is not known.

    The number that a worker counted is preferred to the number that follows from the recipe. For another library's
    attack, only a counted number is known.
    """
    if distances.gradients is not None or craft.recipe.external is not None:
        return distances.gradients
    return craft.recipe.gradients(steps, len(craft.sources))
