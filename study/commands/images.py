"""`study images`: adversarial images that a run has kept, as PNGs beside a list of labels.

The names are those of the clean images, with `.png`; `labels.csv` has the columns `filename,label`, and
`targeted_label` where the goal is targeted: what TransferAttack and others evaluate, and what `made:` and `list:` read.
"""

from __future__ import annotations

import csv
import fnmatch
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from study.errors import StudyError, names
from study.images import decoding
from study.images.folders import without_suffix
from study.images.image_sets import Candidate, candidates
from study.images.selection import Selection
from study.planning import resume
from study.planning.plan import Craft, Plan, Unit
from study.results import integrity
from study.results.kept_images import KeptImages
from study.storage.run_folder import RunFolder
from study.terminal.prose import exactly

LABELS = "labels.csv"


@dataclass(frozen=True)
class ImagesOptions:
    """Which crafts: by a pattern of their ids, or by what they are; `None` is whatever there is.

    Of an attack with several points, those at `steps` and `budget`. `sources` are joined by `+`.
    """

    craft: str | None = None
    attack: str | None = None
    sources: str | None = None
    goal: str | None = None
    seed: int | None = None
    steps: int | None = None
    budget: float | None = None

    def means(self, craft: Craft) -> bool:
        """Whether a craft is asked for."""
        said = (
            (self.attack, craft.attack),
            (self.sources and "+".join(sorted(self.sources.split("+"))), "+".join(craft.sources)),
            (self.goal, craft.goal),
            (self.seed, craft.seed),
        )
        return fnmatch.fnmatchcase(craft.id, self.craft or "*") and all(
            asked is None or asked == there for asked, there in said
        )


@dataclass(frozen=True)
class _Batch:
    """A craft at one of its points, and where its images go."""

    craft: Craft
    point: int
    folder: Path


@integrity.reads
def write_images(run: str, to: Path, wish: ImagesOptions, console: Console) -> None:
    """Write the images of the crafts that are asked for, one folder for each where there are several.

    Raises StudyError where the run keeps none of them, where `to` has something in it, where a clean image is not what
    it was, or where an image's name would lead out of the folder.
    """
    folder = RunFolder(run)
    selection = resume.selected(folder)
    if selection is None:
        raise StudyError(
            f"{folder.path} is not the run folder of a study that has begun", todo="name the folder of a launched study"
        )
    spec, kept = resume.spec_of(folder), KeptImages(folder)
    plan = Plan(spec, {name: model["digest"] for name, model in selection.models.items()}, selection.shards)
    batches = _batches(plan, kept, wish, to)
    named = _files([one.image for shard in selection.shards for one in shard.images])
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise StudyError(f"{to} is there already, and not empty", todo="name a new folder with --to")
    clean = _Clean(selection, candidates(spec.images, spec.seed), plan)
    for batch in batches:
        count = _write(batch, plan, kept, clean, named)
        exactly(console, f"{batch.folder}: {count} images of {batch.craft.id}")


def _batches(plan: Plan, kept: KeptImages, wish: ImagesOptions, to: Path) -> list[_Batch]:
    """What is to be written. Raises StudyError where nothing is asked for, or not all of it is kept."""
    asked = [craft for craft in plan.crafts.values() if wish.means(craft)]
    if not asked:
        raise StudyError(
            "no craft of this study is what was asked for",
            accepted=names(plan.crafts, wish.craft or wish.attack),
            todo="change --craft, --attack, --sources, --goal or --seed; the ids of crafts are in the rows",
        )
    lacking = [one for one in asked if not all(one.unit_id(shard) in kept for shard in plan.shards)]
    if lacking:
        never = [one.id for one in lacking if not one.keepable]
        raise StudyError(
            f"not all images of {len(lacking)} of {len(asked)} crafts are kept, such as those of {lacking[0].id}",
            todo=f"leave out {never[0]}, which has no images of its own"
            if never
            else "launch the study with --set run.keep_images=true: what is not kept is crafted again",
            status=1,
        )
    found = []
    for craft in asked:
        for index, (steps, level) in enumerate(craft.recipe.points):
            if wish.steps in (None, steps) and wish.budget in (None, level):
                found.append((craft, index, steps, level))
    if not found:
        points = dict.fromkeys(f"{steps} steps" + ("" if level is None else f", budget {level:g}")
                               for craft in asked for steps, level in craft.recipe.points)  # fmt: skip
        raise StudyError(
            "no craft is kept at such a point", accepted="; ".join(points), todo="change --steps or --budget"
        )
    if len(found) == 1:
        return [_Batch(found[0][0], found[0][1], to)]
    stems = [f"{'+'.join(one.sources) or 'elsewhere'}.{one.attack}.{one.goal}.s{one.seed}" for one, *_ in found]
    several = Counter(stems)
    batches = []
    for stem, (craft, index, steps, level) in zip(stems, found, strict=True):
        level_mark = f"-{level:g}" if level is not None and len(craft.recipe.budget.levels) > 1 else ""
        point = f".{steps}{level_mark}" if several[stem] > 1 else ""
        batches.append(_Batch(craft, index, to / (stem + point)))
    return batches


def _files(images: Sequence[str]) -> dict[str, str]:
    """The file of each image, relative to a folder: its id with `.png`. StudyError for an id that leads elsewhere."""
    files = {}
    for image in images:
        file = PurePosixPath(without_suffix(image) + ".png")
        odd = any(part in {"..", ""} or part.startswith("/") or "\\" in part or ":" in part for part in file.parts)
        if file.is_absolute() or odd or "\0" in image or file.as_posix().removesuffix(".png").endswith(("/", ".")):
            raise StudyError(
                f"the image {image!r} cannot be written under its name: it leads out of a folder, or names no file",
                todo="give the image another name in its list or folder",
            )
        files[image] = file.as_posix()
    twice = [file for file, times in Counter(files.values()).items() if times > 1]
    if twice:
        owners = [image for image, file in files.items() if file == twice[0]]
        raise StudyError(f"{' and '.join(owners)} would both be {twice[0]}", todo="give one of the images another name")
    return files


class _Clean:
    """The clean images that kept ones are differences from, shard by shard."""

    def __init__(self, selection: Selection, found: Sequence[Candidate], plan: Plan) -> None:
        self._files = {one.image: one.file for one in found}
        self._images = plan.spec.images
        missing = [one.image for shard in selection.shards for one in shard.images if one.image not in self._files]
        if missing:
            raise StudyError(
                f"{len(missing)} clean images are no longer in the image set, such as {missing[0]}",
                todo="bring them back: what is kept is the difference to them",
            )

    def of(self, unit: Unit) -> NDArray[np.uint8]:
        read = []
        for one in unit.shard.images:
            read.append(decoding.read(self._files[one.image], self._images))
            if decoding.digest(read[-1]) != one.digest:
                raise StudyError(
                    f"the image {self._files[one.image]} is not what it was when the study began",
                    todo="bring the old file back: what is kept is the difference to it",
                )
        return np.stack(read)


def _write(batch: _Batch, plan: Plan, kept: KeptImages, clean: _Clean, named: dict[str, str]) -> int:
    """All images of a craft at one point, and their labels; how many there are."""
    targeted = batch.craft.goal == "targeted"
    table = io.StringIO()
    lines = csv.writer(table, lineterminator="\n")
    lines.writerow(["filename", "label", *(["targeted_label"] if targeted else [])])
    root = batch.folder.resolve()
    count = 0
    for unit in _units(batch.craft, plan):
        _, made = kept.load(unit, clean.of(unit))
        size = len(unit.shard.images)
        for one, image in zip(unit.shard.images, made[batch.point * size : (batch.point + 1) * size], strict=True):
            path = root / named[one.image]
            # Names were looked at; this holds whatever they are.
            if not path.resolve().is_relative_to(root):
                raise StudyError(f"the image {one.image!r} leads out of {batch.folder}")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(path, "PNG")
            except OSError as error:
                raise StudyError(f"{path} cannot be written: {error.strerror or error}", status=1) from None
            lines.writerow([_cell(named[one.image]), one.label, *([one.target_label] if targeted else [])])
            count += 1
    try:
        (root / LABELS).write_text(table.getvalue(), encoding="utf-8")
    except OSError as error:
        raise StudyError(f"{root / LABELS} cannot be written: {error.strerror}", status=1) from None
    return count


def _cell(file: str) -> str:
    """A file's name in a list: `./` before one that a spreadsheet would compute as a formula."""
    return f"./{file}" if file.startswith(("=", "+", "-", "@", "\t", "\r")) else file


def _units(craft: Craft, plan: Plan) -> Iterator[Unit]:
    for shard in plan.shards:
        yield Unit(craft.unit_id(shard), craft, shard, ())
