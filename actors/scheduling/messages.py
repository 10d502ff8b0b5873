"""What actors are asked and what they answer: the messages between the driver and its workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from study.attacks.recipe import Attack, Goal, Search
from study.geometry.plan import ProbeTask
from study.results.schema import Distances, TargetAnswers


@dataclass(frozen=True)
class CraftJob:
    """All of a unit but its pixels. `labels` are those that the objective is about, `own` the images' true ones, `rmsd`
    matched budgets; `pool` are the labels of the images that stand behind the unit's own, for admix."""

    attack: Attack
    goal: Goal
    key: tuple[object, ...]
    images: tuple[str, ...]
    labels: tuple[int, ...]
    own: tuple[int, ...]
    rmsd: tuple[float, ...] | None
    pool: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Timed:
    """How long a worker was at a call, and how much of that it took to load models, by name; seconds. And a `note`,
    where there is something that the user should know."""

    seconds: float = 0.0
    loads: Mapping[str, float] = field(default_factory=dict)
    note: str | None = None


@dataclass(frozen=True)
class Made(Timed):
    """What became of a unit: how far its images moved."""

    moved: Distances


@dataclass(frozen=True)
class PredictJob:
    """Which models are asked about which images, in batches of what size; with a `search`, how far they must move for
    each.

    `whole` asks for the probabilities of all labels.
    """

    targets: tuple[str, ...]
    batch: int
    images: tuple[str, ...]
    search: Search | None = None
    whole: bool = False


@dataclass(frozen=True)
class Answer:
    """What a target said, and what the model that said it is (digest, parameters, input).

    `whole`, where it was asked for, is float32 (N, labels): the probabilities of all labels.
    """

    said: TargetAnswers
    model: Mapping[str, Any]
    whole: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Answers(Timed):
    """What the targets of one call said."""

    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class ProbeJob:
    """What is asked of a probe's unit, by the unit's id."""

    unit: str
    question: ProbeTask


@dataclass(frozen=True)
class Probed(Timed):
    """The rows of a probe's unit."""

    rows: pa.Table
