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
    """A unit to craft, without its pixels.

    Attributes:
        key: Seeds the random numbers.
        images: The ids of the images.
        labels: The labels in the objective: true labels, or those of the target class.
        true_labels: The images' true labels.
        rmsd: The matched budget of each image, in pixel values; None for other budgets.
        pool: The labels of the further images that admix mixes in, whose pixels follow the unit's own.
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
    """What every call returns: its seconds, the seconds of loading each model in it, and a note for the user if any."""

    seconds: float = 0.0
    loads: Mapping[str, float] = field(default_factory=dict)
    note: str | None = None


@dataclass(frozen=True)
class CraftResult(CallResult):
    """The distances between the clean and the adversarial images of a unit.

    `remark` is what another library did that a user must know; a `note` is about a repair.
    """

    distances: PixelDistances
    remark: str | None = None


@dataclass(frozen=True)
class Truth:
    """What the answers of a service are judged by, for each image of a job.

    Attributes:
        labels: The true labels.
        target_labels: The labels that the attack aims at; None if it is untargeted, and for clean images.
        clean_names: The names that the service has given for the clean images; None while it is asked about them.
    """

    labels: tuple[int, ...]
    target_labels: tuple[int, ...] | None = None
    clean_names: tuple[tuple[str, ...], ...] | None = None


@dataclass(frozen=True)
class PredictJob:
    """Images to show to target models.

    Attributes:
        batch: Images in one pass.
        images: The ids of the images; without any, only the records of the models are wanted.
        search: The search for the minimal RMSD along rays; None where finished images are shown.
        probabilities: Whether the results hold the probabilities of all labels.
        truth: What the answers of a service are judged by; None for local models.
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
        model: The description of the model: digest, parameters, input.
        probabilities: float32 (N, labels), the probabilities of all labels, where the job asks for them.
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
    """A question about the geometry of models, and the id of its unit."""

    unit: str
    question: ProbeTask


@dataclass(frozen=True)
class ProbeResult(CallResult):
    """The rows of a probe's unit."""

    rows: pa.Table
