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
    """A unit (one attack on one shard of the images) that a worker has to compute, without its pixels.

    Attributes:
        attack: The recipe.
        goal: The goal.
        key: The key of the random numbers.
        images: The ids of the images.
        labels: The labels that the attack's loss uses: true labels, or target labels for a targeted goal.
        true_labels: The images' true labels.
        rmsd: The matched budget of each image, in pixel values 0..255; None for other budgets.
        pool: The labels of the further images that the attack admix mixes in. The pixels of these images come after
            the pixels of `images`.
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
    """The result of a call.

    Attributes:
        seconds: The time of the call on its worker.
        loads: The seconds of each load of a model in the call, by model.
        note: A note for the user about a repair; None without a repair.
    """

    seconds: float = 0.0
    loads: Mapping[str, float] = field(default_factory=dict)
    note: str | None = None


@dataclass(frozen=True)
class CraftResult(CallResult):
    """The distances between the clean and the adversarial images of a unit.

    `remark`: a line for the user about an attack of another library; None without a remark.
    """

    distances: PixelDistances
    remark: str | None = None


@dataclass(frozen=True)
class Truth:
    """The labels and names that the answers of a service are compared with, for each image of a job.

    Attributes:
        labels: The true labels.
        target_labels: The labels that the attack aims at; None if it is untargeted, and for clean images.
        clean_names: The names that the service gave for the clean images; None if the job shows the clean images.
    """

    labels: tuple[int, ...]
    target_labels: tuple[int, ...] | None = None
    clean_names: tuple[tuple[str, ...], ...] | None = None


@dataclass(frozen=True)
class PredictJob:
    """Images to show to target models.

    Attributes:
        batch: Number of images in one pass.
        targets: The names of the targets.
        images: The ids of the images. Without images, the models are only loaded and described.
        search: The search for the minimal RMSD, if the job's array holds directions from images; None if it holds
            images.
        probabilities: Whether the results hold the probabilities of all labels.
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
    """One target's predictions.

    Attributes:
        answers: Its predictions.
        model: The description of the model: digest, parameters, input.
        probabilities: The probabilities of all labels, float32 (N, labels); None unless the job asks for them.
    """

    answers: TargetAnswers
    model: Mapping[str, Any]
    probabilities: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class PredictResult(CallResult):
    """The predictions of the targets of one call, in the job's order."""

    targets: tuple[TargetResult, ...]


@dataclass(frozen=True)
class ProbeJob:
    """A unit of a probe: its id, and its question about the geometry of models."""

    unit: str
    question: ProbeTask


@dataclass(frozen=True)
class ProbeResult(CallResult):
    """The rows of one unit of a probe."""

    rows: pa.Table
