"""The messages between the driver and its workers: jobs and their results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from study.attacks.recipe import Attack, Goal, Search
from study.geometry.plan import ProbeTask
from study.results.schema import PixelDistances, TargetAnswers


@dataclass(frozen=True)
class CraftJob:
    """The job of crafting the images of a unit (one attack run on one shard of the images), without the pixels.

    Attributes:
        attack: The recipe of the attack.
        goal: `untargeted` or `targeted`.
        key: The key from which random numbers are derived.
        images: The ids of the images.
        labels: The label that the attack's loss uses for each image: the true label, or for a targeted goal the target
            label.
        true_labels: The true label of each image.
        rmsd: The RMSD that each image must have, in pixel values 0..255, if the budget is matched to another attack;
            otherwise None.
        pool: The labels of further images that the attack mixes in, as admix does. In the pixels of the call, these
            images come after `images`.
    """

    attack: Attack
    goal: Goal
    key: tuple[object, ...]
    images: tuple[str, ...]
    labels: tuple[int, ...]
    true_labels: tuple[int, ...]
    rmsd: tuple[float, ...] | None
    pool: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CallResult:
    """What the results of all calls contain.

    Attributes:
        seconds: The duration of the call on its worker.
        loads: Seconds of each model load during the call, by name of the model.
        note: A text for the user about a repair, such as smaller passes after a lack of memory; None without a repair.
    """

    seconds: float = 0.0
    loads: Mapping[str, float] = field(default_factory=dict)
    note: str | None = None


@dataclass(frozen=True)
class CraftResult(CallResult):
    """The result of crafting a unit. The adversarial images are returned separately.

    Attributes:
        distances: The distances between the clean and the adversarial images.
        remark: A line for the user about an attack of another library; None if there is nothing to say.
    """

    distances: PixelDistances
    remark: str | None = None


@dataclass(frozen=True)
class Truth:
    """The labels and names that the answers of a service are compared with, for each image of a job.

    Attributes:
        labels: The true labels.
        target_labels: The labels that the attack aims at. None for an untargeted attack, and for clean images.
        clean_names: The names that the service gave for the clean images. None if the job itself shows the clean
            images.
    """

    labels: tuple[int, ...]
    target_labels: tuple[int, ...] | None = None
    clean_names: tuple[tuple[str, ...], ...] | None = None


@dataclass(frozen=True)
class PredictJob:
    """The job of showing images to target models, without the pixels.

    Attributes:
        targets: The names of the target models.
        batch: Number of images in one pass.
        images: The ids of the images. If it is empty, the models are only loaded and described.
        search: The search for the minimal RMSD along a direction from each clean image. The array of the call then
            holds the clean images and the directions. None without a search: the array then holds images to show.
        probabilities: Whether the results contain the probabilities of all labels.
        truth: The labels and names that the answers of a service are compared with; None for local models.
    """

    targets: tuple[str, ...]
    batch: int
    images: tuple[str, ...]
    search: Search | None = None
    probabilities: bool = False
    truth: Truth | None = None


@dataclass(frozen=True)
class TargetResult:
    """The predictions of one target model.

    Attributes:
        answers: The predictions.
        model: The description of the model: digest, number of parameters, input.
        probabilities: The probabilities of all labels, float32 (N, labels) for N images; None unless the job asks for
            them.
    """

    answers: TargetAnswers
    model: Mapping[str, Any]
    probabilities: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class PredictResult(CallResult):
    """The predictions of one call: one result for each target, in the order of the job."""

    targets: tuple[TargetResult, ...]


@dataclass(frozen=True)
class ProbeJob:
    """The job of computing one unit of a probe: the unit's id, and the question about the geometry of models."""

    unit: str
    question: ProbeTask


@dataclass(frozen=True)
class ProbeResult(CallResult):
    """The result of one unit of a probe: the rows to write."""

    rows: pa.Table
