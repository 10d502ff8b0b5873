"""Image sets: which files there are, with their labels, before anything is decoded."""

from __future__ import annotations

import csv
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from study.errors import StudyError, names
from study.frozen import Frozen
from study.keyed import digest
from study.models.labels import index_of, wordnet_ids

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp")


class Images(Frozen):
    """The image set of a spec: exactly one of `sample` and `folder`.

    - `sample: foolbox`: the 20 labelled ImageNet images that the package foolbox carries;
    - `folder`: a folder per WordNet id with images in it; the label comes from the id;
    - `folder` and `list`: the files that a CSV names (`file,label[,target]`), relative to the folder.

    `count` images are drawn with the study's seed from those that `keep` admits. Target labels are those of the list
    where it has a third column, else drawn from the seed and the image's id, uniform over the other labels; `targets`
    insists on one of the two.
    """

    sample: Literal["foolbox"] | None = None
    folder: str | None = None
    list: str | None = None
    size: Annotated[int, Field(ge=8, le=4096)] = 224
    keep: Literal["correct-for-all", "correct-for-sources", "all"] = "correct-for-all"
    count: Annotated[int, Field(ge=1)] | None = None
    targets: Literal["random", "list"] | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> Images:
        if (self.sample is None) == (self.folder is None):
            raise PydanticCustomError("images", "an image set has either a sample or a folder")
        if self.list is not None and self.folder is None:
            raise PydanticCustomError("images", "a list names files of a folder, and no folder is given")
        if self.targets == "list" and self.list is None:
            raise PydanticCustomError("images", "target labels from a list need a list with a third column")
        return self


@dataclass(frozen=True)
class Candidate:
    """An image that may be selected: its id in the study, its file, its label and the label to reach."""

    image: str
    path: Path
    label: int
    target_label: int


def candidates(images: Images, seed: int) -> list[Candidate]:
    """Every image of the set, in the order in which selection draws them: by a hash of seed and id.

    The order of files, folders and lines does not matter. Raises StudyError where the set is not as it says.
    """
    if images.sample is not None:
        listed = _foolbox()
    elif images.list is not None:
        listed = _from_list(Path(images.folder or ""), Path(images.list), images.targets)
    else:
        listed = _from_folder(Path(images.folder or ""))
    found = [
        Candidate(image, path, label, _random_target(image, label, seed) if target is None else target)
        for image, path, label, target in listed
    ]
    return sorted(found, key=lambda candidate: (digest(seed, candidate.image, "selection"), candidate.image))


_Listed = list[tuple[str, Path, int, int | None]]


def _random_target(image: str, label: int, seed: int) -> int:
    """A label other than the true one, uniform, from the image's id and the seed alone."""
    others = len(wordnet_ids()) - 1
    drawn = int(digest(seed, image, "target label"), 16) % others
    return drawn + (drawn >= label)


def _foolbox() -> _Listed:
    package = importlib.util.find_spec("foolbox")
    if package is None or not package.submodule_search_locations:
        raise StudyError(
            "the package foolbox, which carries the sample images, is not installed",
            todo="pip install foolbox, or pip install 'study[demo]' for all that the quickstart needs",
        )
    folder = Path(package.submodule_search_locations[0]) / "data"
    named = [(path, re.fullmatch(r"imagenet_\d+_(\d+)", path.stem)) for path in sorted(folder.iterdir())]
    return [(path.name, path, int(match[1]), None) for path, match in named if match]


def _from_folder(folder: Path) -> _Listed:
    _must_be_folder(folder)
    listed: _Listed = []
    for inner in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        label = index_of().get(inner.name)
        if label is None:
            raise StudyError(
                f"the folder {inner} is not named by a WordNet id of ImageNet's 1,000 labels",
                accepted=names(wordnet_ids(), inner.name),
                todo="name each folder by its WordNet id, or give `images: list:` with labels",
            )
        listed += [
            (path.relative_to(folder).as_posix(), path, label, None)
            for path in sorted(inner.iterdir())
            if path.suffix.lower() in SUFFIXES
        ]
    if not listed:
        raise StudyError(
            f"the folder {folder} has no images in folders by WordNet id",
            accepted=f"<WordNet id>/<name> with a suffix of {', '.join(SUFFIXES)}",
            todo="correct `images: folder:`, or give `images: list:` with labels",
        )
    return listed


def _from_list(folder: Path, file: Path, targets: str | None) -> _Listed:
    _must_be_folder(folder)
    accepted = "lines of file,label or file,label,target; labels 0 to 999 or WordNet ids; a heading is optional"
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            rows = [(number, row) for number, row in enumerate(csv.reader(opened), 1) if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StudyError(
            f"the image list {file} cannot be read: {reason}",
            accepted=accepted,
            todo="correct `images: list:`",
        ) from None
    if rows and [cell.strip().lower() for cell in rows[0][1][:2]] == ["file", "label"]:
        rows = rows[1:]
    with_targets = targets == "list" or (targets is None and bool(rows) and len(rows[0][1]) == 3)
    listed: _Listed = []
    lines: dict[str, int] = {}
    for number, row in rows:
        where = f"{file}, line {number}"
        cells = [cell.strip() for cell in row]
        if len(cells) not in (2, 3) or not cells[0]:
            raise StudyError(f"'{','.join(row)}' is not an image and its label", where=where, accepted=accepted)
        if with_targets and len(cells) < 3:
            raise StudyError(f"'{cells[0]}' has no target label", where=where, accepted=accepted)
        image = Path(cells[0]).as_posix()
        if image in lines:
            raise StudyError(
                f"'{image}' is listed twice",
                where=f"{where}, and line {lines[image]}",
                todo="keep one of them",
            )
        lines[image] = number
        label = _label(cells[1], where)
        target = _label(cells[2], where) if with_targets else None
        if target == label:
            raise StudyError(f"the target label of '{image}' is its true label, {label}", where=where)
        if not (folder / image).is_file():
            raise StudyError(
                f"the image {folder / image} does not exist",
                where=where,
                todo="correct the list or the folder",
            )
        listed.append((image, folder / image, label, target))
    if not listed:
        raise StudyError(f"the image list {file} names no image", accepted=accepted)
    return listed


def _label(text: str, where: str) -> int:
    if text in index_of():
        return index_of()[text]
    if text.isdecimal() and int(text) < len(wordnet_ids()):
        return int(text)
    raise StudyError(
        f"'{text}' is not a label of ImageNet",
        where=where,
        accepted="0 to 999, or a WordNet id such as n01440764",
        todo="subtract 1 where the labels count from 1",
    )


def _must_be_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise StudyError(
            f"the image folder {folder} does not exist",
            accepted="a folder with one folder per WordNet id, or with the files that a list names",
            todo="correct `images: folder:`",
        )
