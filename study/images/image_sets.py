"""Image sets: which images there are, with their labels, before anything is decoded."""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NoReturn

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from study.errors import StudyError, names
from study.images.folders import from_folder
from study.images.ilsvrc import read_truth
from study.images.labels import KNOWN, LabelSet, label_set, read_names
from study.images.lists import read_list
from study.images.location import FileImage, Listed, RecordImage, Stored
from study.images.parquet import read_parquet
from study.reproducibility.hashing import digest
from study.spec.frozen import Frozen
from study.spec.shorthand import Names

__all__ = ["Candidate", "ImageSet", "Ranked", "candidates"]

_Listing = list[Listed]
_TARGETS: dict[str, dict[str, Any]] = {"most-confusing": {"rank": 1}, "least-likely": {"rank": "last"}}


class Ranked(Frozen):
    """A target label by how probable models find it on the clean image.

    Rank 1 is the most probable label other than the true one, `last` the least probable. `by` names the models whose
    probabilities are averaged; left out, the source models.
    """

    rank: Annotated[int, Field(ge=1)] | Literal["last"]
    by: Names | None = None


class ImageSet(Frozen):
    """The image set of a spec: exactly one of `sample`, `folder`, `parquet` and `records`.

    - `sample: foolbox`: the 20 labelled ImageNet images that the package foolbox carries;
    - `folder`: folders named by labels, or files named by WordNet ids; with `list`, the files that a CSV names; with
      `truth`, the ILSVRC validation images and their ground truth;
    - `parquet`: encoded images and labels in Parquet files;
    - `records`: the `split` of MNIST's or CIFAR-10's own binary files.

    `labels` are those of a known set, names, or a text file of names. `size`, `fit` and `channels` say what pixels
    models are shown. `count` images are drawn with the study's seed from those that `keep` admits. Target labels are
    those of the list where it has some, else drawn from the seed and the image's id, uniform over the other labels;
    `targets` insists on one of the two, or ranks labels by clean predictions. An image that cannot be read stops the
    study, or is left out (`corrupt`).
    """

    PLACES: ClassVar[tuple[str, ...]] = ("folder", "list", "truth", "parquet", "records")
    """The keys that say where data lies, not what it is."""

    sample: Literal["foolbox"] | None = None
    folder: str | None = None
    list: str | None = None
    truth: str | None = None
    parquet: str | None = None
    records: str | None = None
    split: Literal["test", "train"] = "test"
    labels: str | Annotated[tuple[str, ...], Field(strict=False)] = "imagenet"
    size: Annotated[int, Field(ge=8, le=4096)] = 224
    fit: Literal["crop", "squash", "exact"] = "crop"
    channels: Literal[1, 3] = 3
    keep: (
        Literal["correct-for-all", "correct-for-sources", "all"]
        | Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    ) = "correct-for-all"
    count: Annotated[int, Field(ge=1)] | None = None
    targets: Literal["random", "list"] | Ranked | None = None
    corrupt: Literal["stop", "leave-out"] = "stop"

    @field_validator("labels", mode="before")
    @classmethod
    def _names(cls, given: Any) -> Any:
        accepted = f"{', '.join(KNOWN)}, a list of names, or a text file with a name in each line"
        if isinstance(given, str) and given not in KNOWN:
            if not Path(given).is_file():
                nearest = names(KNOWN, given)
                _refuse(f"'{given}' is neither a known set of labels nor a file", accepted=f"{nearest}; or {accepted}")
            try:
                return read_names(Path(given))
            except StudyError as error:
                _refuse(f"{error.what} ({error.where})" if error.where else error.what, accepted=accepted)
        if isinstance(given, tuple | list):
            odd = next((one for one in given if not isinstance(one, str) or not one.strip()), None)
            if odd is not None:
                _refuse(f"{odd!r} is not the name of a label", accepted="text: put quotes around numbers")
            twice = [one for one, times in Counter(given).items() if times > 1]
            if twice:
                _refuse(f"the label '{twice[0]}' stands twice", accepted=accepted)
            if len(given) < 2:
                _refuse(f"{len(given)} labels are too few", accepted="two names at least")
        return given

    @field_validator(
        "targets",
        mode="before",
        json_schema_input_type=Literal["random", "list", "most-confusing", "least-likely"] | Ranked | None,
    )
    @classmethod
    def _short(cls, given: Any) -> Any:
        if isinstance(given, str) and given not in ("random", "list"):
            if given not in _TARGETS:
                known = names(("random", "list", *_TARGETS), given)
                _refuse(f"'{given}' says no target labels", accepted=f"{known}, or {{rank: 2, by: [<model>]}}")
            return _TARGETS[given]
        return given

    @model_validator(mode="after")
    def _one_origin(self) -> ImageSet:
        if sum(origin is not None for origin in (self.sample, self.folder, self.parquet, self.records)) != 1:
            _refuse("an image set has either a sample or a folder, a `parquet` or `records`: exactly one of these")
        for key, value in (("list", self.list), ("truth", self.truth)):
            if value is not None and self.folder is None:
                _refuse(f"a {key} names files of a folder, and no folder is given")
        if self.list is not None and self.truth is not None:
            _refuse("labels come from a list or from `truth`, not from both")
        if self.split == "train" and self.records is None:
            _refuse("a split is one of `records`, and none are given")
        if self.targets == "list" and self.list is None and self.parquet is None:
            _refuse("target labels from a list need a list with a third column, or a `parquet` with a column `target`")
        if self.sample is not None and self.labels != "imagenet":
            _refuse(f"the sample {self.sample} has ImageNet's labels", accepted="labels: imagenet")
        if isinstance(self.targets, Ranked) and isinstance(self.targets.rank, int):
            others = len(label_set(self.labels)) - 1
            if self.targets.rank > others:
                _refuse(f"there is no rank {self.targets.rank} among {others} other labels", accepted=f"1 to {others}")
        return self

    @property
    def bytes(self) -> int:
        """Of one image."""
        return self.channels * self.size**2

    @property
    def preparation(self) -> str:
        """What `pixels.read` does to an image, in words that are part of every craft's identity."""
        how = {
            "crop": "short side to floor(size / 0.875) by antialiased bicubic, centre crop",
            "squash": "whole image to size x size by antialiased bicubic",
            "exact": "as it is",
        }
        return f"{'rgb' if self.channels == 3 else 'grey by ITU-R 601'}, {how[self.fit]}"


def _refuse(what: str, accepted: str | None = None) -> NoReturn:
    context = {"what": what} if accepted is None else {"what": what, "accepted": accepted}
    raise PydanticCustomError("images", "{what}", context)


@dataclass(frozen=True)
class Candidate:
    """An image that may be selected: its id in the study, where it lies, its label and the label to reach.

    The target label is None where clean predictions will decide it.
    """

    image: str
    file: Stored
    label: int
    target_label: int | None


def candidates(images: ImageSet, seed: int, *, targeted: bool = False) -> list[Candidate]:
    """Every image of the set, in the order in which selection draws them: by a hash of seed and id.

    The order of files, folders and lines does not matter. Raises StudyError where the set is not as it says, or, for
    attacks that are `targeted`, where a target label is the true one.
    """
    labels = label_set(images.labels)
    found = []
    for image, file, label, listed in _listed(images, labels, targeted=targeted):
        try:
            image.encode()
        except UnicodeEncodeError:
            raise StudyError(f"the name of the image {image!r} is not UTF-8 text", todo="rename the file") from None
        if isinstance(images.targets, Ranked):
            target = None
        else:
            target = _random_target(image, label, seed, len(labels)) if listed is None else listed
        found.append(Candidate(image, file, label, target))
    return sorted(found, key=lambda candidate: (digest(seed, candidate.image, "selection"), candidate.image))


def _listed(images: ImageSet, labels: LabelSet, *, targeted: bool) -> _Listing:
    targets = None if images.targets is None else images.targets == "list"
    if images.parquet is not None:
        return read_parquet(Path(images.parquet), labels, targets=targets, targeted=targeted)
    if images.records is not None:
        return _from_records(Path(images.records), images.split, labels)
    if images.folder is None:
        return _foolbox()
    if images.list is not None:
        return read_list(Path(images.folder), Path(images.list), labels, targets=targets, targeted=targeted)
    if images.truth is not None:
        return read_truth(Path(images.folder), Path(images.truth), labels)
    return from_folder(Path(images.folder), labels)


def _random_target(image: str, label: int, seed: int, labels: int) -> int:
    """A label other than the true one, uniform, from the image's id and the seed alone."""
    drawn = int(digest(seed, image, "target label"), 16) % (labels - 1)
    return drawn + (drawn >= label)


def _from_records(folder: Path, split: str, labels: LabelSet) -> _Listing:
    from study.images import records

    said: list[int] = records.read(folder, split)[1].tolist()
    if said and max(said) >= len(labels):
        raise StudyError(
            f"{folder} has the label {max(said)}, and the study has {len(labels)} labels",
            accepted=f"labels 0 to {len(labels) - 1}",
            todo="correct `images: labels:`",
        )
    return [
        Listed(f"{split}-{index:05d}", RecordImage(folder, split, index), label) for index, label in enumerate(said)
    ]


def _foolbox() -> _Listing:
    package = importlib.util.find_spec("foolbox")
    if package is None or not package.submodule_search_locations:
        raise StudyError(
            "the package foolbox, which carries the sample images, is not installed",
            todo="pip install foolbox, or pip install 'study[demo]' for all that the quickstart needs",
        )
    folder = Path(package.submodule_search_locations[0]) / "data"
    named = [(path, re.fullmatch(r"imagenet_\d+_(\d+)", path.stem)) for path in sorted(folder.iterdir())]
    return [Listed(path.name, FileImage(path), int(match[1])) for path, match in named if match]
