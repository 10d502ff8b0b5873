"""The section `images` of a spec, and the list of the images that it describes, with labels. No image is decoded."""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NoReturn

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from study.distribution import installing
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
    """A target label that is chosen by the predicted probabilities of the clean image.

    Rank 1 is the most probable label other than the true label; `last` is the least probable label. `by` names the
    models whose probabilities are averaged; by default, these are the source models.
    """

    rank: Annotated[int, Field(ge=1)] | Literal["last"]
    by: Names | None = None


class ImageSet(Frozen):
    """The image set of a spec. Exactly one of `sample`, `folder`, `parquet` and `records` gives its source:

    - `sample: foolbox`: the 20 labelled ImageNet images in the package foolbox;
    - `folder`: folders named by labels, or files named by WordNet ids; with `list`, the files that a CSV names; with
      `truth`, the ILSVRC validation images and their ground truth;
    - `parquet`: encoded images and labels in Parquet files;
    - `records`: the `split` of MNIST's or CIFAR-10's own binary files.

    `labels` is a known label set, a list of names, or a text file of names. `size`, `fit` and `channels` define the
    pixels of all images. The study's seed determines a random order of the images. The study uses the first `count`
    images in this order that `keep` admits; with `draw: last`, it uses the last `count` of them.

    Target labels come from the `list` or the `parquet` files if these have target labels. Otherwise they are drawn
    uniformly from the other labels, with the seed and the image's id. `targets: list` requires target labels in the
    files. With `targets: random`, target labels are always drawn. Other values of `targets` choose a label by its rank
    in the clean predictions.

    With `corrupt: stop`, an unreadable image stops the study. With `corrupt: leave-out`, the image is left out.
    """

    PLACES: ClassVar[tuple[str, ...]] = ("folder", "list", "truth", "parquet", "records")
    """The keys that say where the data is, not what it contains."""

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
    draw: Literal["first", "last"] = "first"

    @field_validator("labels", mode="before")
    @classmethod
    def _names(cls, given: Any) -> Any:
        accepted = f"{', '.join(KNOWN)}, a list of names, or a text file with one name per line"
        if isinstance(given, str) and given not in KNOWN:
            if not Path(given).is_file():
                nearest = names(KNOWN, given)
                _refuse(f"'{given}' is neither a known label set nor a file", accepted=f"{nearest}; or {accepted}")
            try:
                return read_names(Path(given))
            except StudyError as error:
                _refuse(f"{error.what} ({error.where})" if error.where else error.what, accepted=accepted)
        if isinstance(given, tuple | list):
            odd = next((one for one in given if not isinstance(one, str) or not one.strip()), None)
            if odd is not None:
                _refuse(f"{odd!r} is not the name of a label", accepted="text; put numbers in quotes")
            twice = [one for one, times in Counter(given).items() if times > 1]
            if twice:
                _refuse(f"the label '{twice[0]}' occurs twice", accepted=accepted)
            if len(given) < 2:
                _refuse(f"a label set needs two labels, but this one has {len(given)}", accepted="at least two names")
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
                _refuse(
                    f"'{given}' is not a choice of target labels", accepted=f"{known}, or {{rank: 2, by: [<model>]}}"
                )
            return _TARGETS[given]
        return given

    @model_validator(mode="after")
    def _one_origin(self) -> ImageSet:
        if sum(origin is not None for origin in (self.sample, self.folder, self.parquet, self.records)) != 1:
            _refuse("an image set needs exactly one of `sample`, `folder`, `parquet` and `records`")
        for key, value in (("list", self.list), ("truth", self.truth)):
            if value is not None and self.folder is None:
                _refuse(f"`{key}` needs `folder`, the folder of its files")
        if self.list is not None and self.truth is not None:
            _refuse("labels come from `list` or from `truth`, not from both")
        if self.split == "train" and self.records is None:
            _refuse("`split: train` needs `records`")
        if self.targets == "list" and self.list is None and self.parquet is None:
            _refuse("`targets: list` needs a `list` with a third column, or a `parquet` with a column `target`")
        if self.sample is not None and self.labels != "imagenet":
            _refuse(f"the sample {self.sample} has ImageNet's labels", accepted="labels: imagenet")
        if isinstance(self.targets, Ranked) and isinstance(self.targets.rank, int):
            others = len(label_set(self.labels)) - 1
            if self.targets.rank > others:
                _refuse(
                    f"rank {self.targets.rank} does not exist: the number of other labels is {others}",
                    accepted=f"1 to {others}",
                )
        return self

    @property
    def bytes(self) -> int:
        """The size of one image in bytes."""
        return self.channels * self.size**2

    @property
    def preparation(self) -> str:
        """A description of how `decoding.read` prepares an image. This text is part of the ids of all attack runs."""
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
    """An image that may be selected: its id, its file or other place, its true label and its target label.

    The target label is None if clean predictions determine it later.
    """

    image: str
    file: Stored
    label: int
    target_label: int | None


def candidates(images: ImageSet, seed: int, *, targeted: bool = False) -> list[Candidate]:
    """Return all images of the set in the order of selection: sorted by a hash of the seed and the image id.

    With `draw: last`, the order is reversed. The order of files, folders and lines has no influence. Raises StudyError
    if the data does not match the spec, or if a target label is the true label and `targeted` is true.
    """
    labels = label_set(images.labels)
    found = []
    for image, file, label, listed in _listed(images, labels, targeted=targeted):
        try:
            image.encode()
        except UnicodeEncodeError:
            raise StudyError(f"the name of the image {image!r} is not valid UTF-8", todo="rename the file") from None
        if isinstance(images.targets, Ranked):
            target = None
        else:
            target = _random_target(image, label, seed, len(labels)) if listed is None else listed
        found.append(Candidate(image, file, label, target))
    found.sort(key=lambda candidate: (digest(seed, candidate.image, "selection"), candidate.image))
    return found if images.draw == "first" else found[::-1]


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
    """Return a uniform draw from the labels other than the true label `label`.

    The image id and the seed determine the draw. `labels` is the number of labels.
    """
    drawn = int(digest(seed, image, "target label"), 16) % (labels - 1)
    return drawn + (drawn >= label)


def _from_records(folder: Path, split: str, labels: LabelSet) -> _Listing:
    from study.images import records

    found: list[int] = records.read(folder, split)[1].tolist()
    if found and max(found) >= len(labels):
        raise StudyError(
            f"{folder} has the label {max(found)}, but the study has {len(labels)} labels",
            accepted=f"labels 0 to {len(labels) - 1}",
            todo="correct `images: labels:`",
        )
    return [
        Listed(f"{split}-{index:05d}", RecordImage(folder, split, index), label) for index, label in enumerate(found)
    ]


def _foolbox() -> _Listing:
    package = importlib.util.find_spec("foolbox")
    if package is None or not package.submodule_search_locations:
        raise StudyError(
            "the package foolbox, which contains the sample images, is not installed",
            todo=f"pip install foolbox, or {installing('demo')} for everything that the quickstart needs",
        )
    folder = Path(package.submodule_search_locations[0]) / "data"
    named = [(path, re.fullmatch(r"imagenet_\d+_(\d+)", path.stem)) for path in sorted(folder.iterdir())]
    return [Listed(path.name, FileImage(path), int(match[1])) for path, match in named if match]
