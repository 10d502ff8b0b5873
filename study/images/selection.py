"""The selected images in shards, with the clean predictions of all models, and their file `RUN/images.parquet`."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from study.images.labels import ABSTAINED
from study.reproducibility.hashing import digest

Keep = Literal["correct-for-all", "correct-for-sources", "all"] | tuple[str, ...]


@dataclass(frozen=True)
class Clean:
    """The prediction of one model for one clean image: up to five labels and their probabilities, most probable first.

    A remote service predicts no labels: `names` and `scores` are the names that it answers and their scores, and
    `sentence` is the whole answer of a chat service. `abstained` is true if the target lets several predictions vote,
    and the vote gave no answer.
    """

    top5: tuple[int, ...]
    top5_prob: tuple[float, ...]
    names: tuple[str, ...] | None = None
    scores: tuple[float, ...] | None = None
    sentence: str | None = None
    abstained: bool = False

    @property
    def top1(self) -> int | None:
        """The predicted label, or ABSTAINED if the vote gave no answer; None for a service."""
        return ABSTAINED if self.abstained else next(iter(self.top5), None)


@dataclass(frozen=True)
class Selected:
    """One selected image of the study.

    `digest` is a hash of its pixels; `clean` holds the clean predictions by model name.
    """

    image: str
    label: int
    target_label: int
    digest: str
    clean: Mapping[str, Clean]


@dataclass(frozen=True)
class Shard:
    """A few consecutive selected images, in the order of their ids."""

    index: int
    images: tuple[Selected, ...]

    @functools.cached_property
    def contents(self) -> dict[tuple[str, bool], str]:
        """Digests of the shard's images and of the labels that determine the adversarial pixels.

        A key is a pair: the goal, and whether the attack reads the true labels even if the goal is targeted. A unit is
        one attack run on one shard. The id of a unit contains one of these digests, and the id of the attack run.
        """
        true = digest([(one.image, one.digest, one.label) for one in self.images])
        wanted = digest([(one.image, one.digest, one.target_label) for one in self.images])
        both = digest([(one.image, one.digest, one.target_label, one.label) for one in self.images])
        return {
            ("untargeted", False): true,
            ("untargeted", True): true,
            ("targeted", False): wanted,
            ("targeted", True): both,
        }


@dataclass(frozen=True)
class Selection:
    """The result of a clean pass, which lets all models predict the clean images.

    `shards` hold the selected images. `models` holds the models' records by name. `unreadable` has, by image id, the
    reason why an image could not be read.
    """

    shards: list[Shard]
    models: dict[str, dict[str, Any]]
    unreadable: dict[str, str] = field(default_factory=dict)


def admitted(image: Selected, keep: Keep, sources: Sequence[str]) -> bool:
    """Return whether the rule `keep` admits this image, according to the predictions in `image.clean`.

    `keep` says which models must classify the image correctly: all models, the source models, the named models, or
    none. `image.clean` must not contain remote services, because they predict no label.
    """
    rules: dict[str, Sequence[str]] = {"all": (), "correct-for-sources": sources, "correct-for-all": tuple(image.clean)}
    asked = rules[keep] if isinstance(keep, str) else keep
    return all(image.clean[model].top1 == image.label for model in asked)


def rule_breakers(shards: Sequence[Shard], models: Sequence[str]) -> dict[str, int]:
    """Return, for each of `models` that misclassifies selected images, the number of these images.

    A model that joins a study later can misclassify images that were selected before.
    """
    images = [image for shard in shards for image in shard.images]
    wrong = {name: sum(name in one.clean and one.clean[name].top1 != one.label for one in images) for name in models}
    return {name: count for name, count in wrong.items() if count}


def cut(images: Sequence[Selected], size: int) -> list[Shard]:
    """Return the images as shards of `size` images, in the order of their ids.

    The order of `images` has no influence.
    """
    ordered = sorted(images, key=lambda one: one.image)
    return [
        Shard(index, tuple(ordered[start : start + size])) for index, start in enumerate(range(0, len(ordered), size))
    ]


_CLEAN: dict[str, pl.DataType | type[pl.DataType]] = {
    "model": pl.String,
    "top5": pl.List(pl.Int32),
    "top5_prob": pl.List(pl.Float32),
    "names": pl.List(pl.String),
    "scores": pl.List(pl.Float32),
    "sentence": pl.String,
}
_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "image": pl.String,
    "label": pl.Int32,
    "target_label": pl.Int32,
    "shard": pl.Int32,
    "digest": pl.String,
    "clean": pl.List(pl.Struct(_CLEAN)),
}


def to_frame(shards: Sequence[Shard]) -> pl.DataFrame:
    """Return a table with one row per selected image.

    On this table, `explode("clean")` gives one row per image and model. The structs in the column `clean` have a field
    `abstained` only if a vote gave no answer for some image.
    """
    votes = any(said.abstained for shard in shards for one in shard.images for said in one.clean.values())
    rows: list[dict[str, Any]] = [
        {
            "image": one.image,
            "label": one.label,
            "target_label": one.target_label,
            "shard": shard.index,
            "digest": one.digest,
            "clean": [
                {
                    "model": model,
                    "top5": list(said.top5),
                    "top5_prob": list(said.top5_prob),
                    "names": said.names,
                    "scores": said.scores,
                    "sentence": said.sentence,
                    **({"abstained": said.abstained} if votes else {}),
                }
                for model, said in one.clean.items()
            ],
        }
        for shard in shards
        for one in shard.images
    ]
    return pl.DataFrame(
        rows, schema=_SCHEMA | {"clean": pl.List(pl.Struct(_CLEAN | {"abstained": pl.Boolean}))} if votes else _SCHEMA
    )


def from_frame(frame: pl.DataFrame) -> list[Shard]:
    """Return the shards that `to_frame` has written to a table."""
    shards: dict[int, list[Selected]] = {}
    for row in frame.iter_rows(named=True):
        clean = {
            said["model"]: Clean(
                tuple(said["top5"]),
                tuple(said["top5_prob"]),
                _tuple(said.get("names")),
                _tuple(said.get("scores")),
                sentence=said.get("sentence"),
                abstained=bool(said.get("abstained")),
            )
            for said in row["clean"]
        }
        shards.setdefault(row["shard"], []).append(
            Selected(
                image=row["image"],
                label=row["label"],
                target_label=row["target_label"],
                digest=row["digest"],
                clean=clean,
            )
        )
    return [Shard(index, tuple(images)) for index, images in sorted(shards.items())]


def _tuple(values: Sequence[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)


def ranked(probabilities: NDArray[np.float64], label: int, rank: int | Literal["last"]) -> int:
    """Return the label at `rank` among all labels except `label`, in the order of falling probability.

    `probabilities` are (labels,). The most probable label has rank 1. Among equal probabilities, the lower index comes
    first.
    """
    order = [int(one) for one in np.argsort(-probabilities, kind="stable") if one != label]
    return order[-1] if rank == "last" else order[rank - 1]
