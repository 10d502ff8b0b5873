"""`study images`: export the adversarial images that a run kept, as PNG files with a list of labels.

The files have the names of the clean images, with `.png`. `labels.csv` has the columns `filename,label`, and
`targeted_label` for targeted attacks. TransferAttack and other tools read this layout. A spec reads it with the
keys `made` and `list`.
"""

from __future__ import annotations

import csv
import fnmatch
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image
from rich.console import Console

from study.errors import StudyError, names
from study.images.folders import without_suffix
from study.images.selected_pixels import SelectedPixels
from study.planning import resume
from study.planning.plan import Craft, Plan, Unit
from study.results import integrity
from study.results.kept_images import KeptImages
from study.storage.no_run import no_run
from study.storage.run_folder import RunFolder
from study.terminal.prose import exactly
from study.terminal.screen import counted

LABELS = "labels.csv"


@dataclass(frozen=True)
class ImagesOptions:
    """The options of `study images` that select attack runs (crafts). An option that is None selects all.

    `craft` is a pattern that the id of the attack run must match, such as `resnet50.mi.*`. `sources` are names of
    source models, joined by `+`. `steps` and `budget` select images of an attack after this number of steps, or with
    this budget.
    """

    craft: str | None = None
    attack: str | None = None
    sources: str | None = None
    goal: str | None = None
    seed: int | None = None
    steps: int | None = None
    budget: float | None = None

    def select(self, craft: Craft) -> bool:
        """Return whether the options select the attack run `craft`. This check ignores `steps` and `budget`."""
        wanted = (
            (self.attack, craft.attack),
            (self.sources and "+".join(sorted(self.sources.split("+"))), "+".join(craft.sources)),
            (self.goal, craft.goal),
            (self.seed, craft.seed),
        )
        return fnmatch.fnmatchcase(craft.id, self.craft or "*") and all(
            asked is None or asked == actual for asked, actual in wanted
        )


@dataclass(frozen=True)
class _Batch:
    """An attack run (craft) at one of its points, and the folder for the images.

    `point` is the index of a pair (number of steps, budget) in `craft.recipe.scored_points`.
    """

    craft: Craft
    point: int
    folder: Path


@integrity.reads
def export_images(run: str, to: Path, console: Console, options: ImagesOptions) -> None:
    """Write the images of the selected attack runs (crafts) into the folder `to`, as PNG files.

    Each attack run, and each pair of steps and budget, gets a subfolder, unless only one is selected. Raises StudyError
    if the run did not keep these images, if `to` is not empty, if a clean image is missing or has changed, or if the
    name of an image leads out of the folder.
    """
    folder = RunFolder(run)
    selection = resume.selected(folder)
    if selection is None:
        raise no_run(folder.path, f"{folder.path} is not a run folder")
    spec, kept = resume.spec_of(folder), KeptImages(folder)
    plan = Plan(spec, {name: model["digest"] for name, model in selection.models.items()}, selection.shards)
    batches = _batches(plan, kept, options, to)
    selected = [one for shard in selection.shards for one in shard.images]
    files = file_names([one.image for one in selected])
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise StudyError(f"{to} is a file, or a folder that is not empty", todo="name a new folder with --to")
    clean = SelectedPixels(spec.images, spec.seed, selected)
    for batch in batches:
        count = _write(batch, plan, kept, clean, files)
        exactly(console, f"{batch.folder}: {counted(count, 'image')} of {batch.craft.id}")


def _batches(plan: Plan, kept: KeptImages, options: ImagesOptions, to: Path) -> list[_Batch]:
    """Return each selected attack run at each selected number of steps and budget, with a folder for its images.

    Raises StudyError if the options select nothing, or if the run did not keep the selected images.
    """
    selected = [craft for craft in plan.crafts.values() if options.select(craft)]
    if not selected:
        raise StudyError(
            "no attack run (craft) of this study matches the options",
            accepted=names(plan.crafts, options.craft or options.attack),
            todo="change --craft, --attack, --sources, --goal or --seed; column `craft` of the rows has all ids",
        )
    lacking = [one for one in selected if not all(one.unit_id(shard) in kept for shard in plan.shards)]
    if lacking:
        never = [one.id for one in lacking if not one.keepable]
        raise StudyError(
            f"for {len(lacking)} of {counted(len(selected), 'attack run')}, such as {lacking[0].id}, the run did not "
            "keep all images",
            todo=f"leave out {never[0]}: its images cannot be kept"
            if never
            else "launch the study with --set run.keep_images=true: the launch makes the missing images again",
            status=1,
        )
    found = []
    for craft in selected:
        for index, (steps, level) in enumerate(craft.recipe.scored_points):
            if options.steps in (None, steps) and options.budget in (None, level):
                found.append((craft, index, steps, level))
    if not found:
        points = dict.fromkeys(f"{steps} steps" + ("" if level is None else f", budget {level:g}")
                               for craft in selected for steps, level in craft.recipe.scored_points)  # fmt: skip
        raise StudyError(
            "no images have these steps and this budget", accepted="; ".join(points), todo="change --steps or --budget"
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


def file_names(images: Sequence[str]) -> dict[str, str]:
    """Return the relative path of the PNG file for each image id: the id with the suffix `.png`.

    Raises StudyError for an id that leads out of the folder, and for two ids with the same path.
    """
    files = {}
    for image in images:
        file = PurePosixPath(without_suffix(image) + ".png")
        odd = any(part in {"..", ""} or part.startswith("/") or "\\" in part or ":" in part for part in file.parts)
        if file.is_absolute() or odd or "\0" in image or file.as_posix().removesuffix(".png").endswith(("/", ".")):
            raise StudyError(
                f"the name of image {image!r} leads out of the folder, or is not a file name",
                todo="give the image another name in its list or folder",
            )
        files[image] = file.as_posix()
    twice = [file for file, times in Counter(files.values()).items() if times > 1]
    if twice:
        owners = [image for image, file in files.items() if file == twice[0]]
        raise StudyError(f"{' and '.join(owners)} have the same file {twice[0]}", todo="rename one of the images")
    return files


def _write(batch: _Batch, plan: Plan, kept: KeptImages, clean: SelectedPixels, files: dict[str, str]) -> int:
    """Write the images of a batch (one attack run at one point) and `labels.csv`. Returns the number of images."""
    targeted = batch.craft.goal == "targeted"
    table = io.StringIO()
    lines = csv.writer(table, lineterminator="\n")
    lines.writerow(["filename", "label", *(["targeted_label"] if targeted else [])])
    root = batch.folder.resolve()
    count = 0
    for unit in _units(batch.craft, plan):
        _, made = kept.load(unit, clean.read(unit.shard.images))
        size = len(unit.shard.images)
        for one, image in zip(unit.shard.images, made[batch.point * size : (batch.point + 1) * size], strict=True):
            path = root / files[one.image]
            # `file_names` has checked the name; this check also resolves symbolic links.
            if not path.resolve().is_relative_to(root):
                raise StudyError(
                    f"the image {one.image!r} would be written outside {batch.folder}, through a symbolic link"
                )
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(path, "PNG")
            except OSError as error:
                raise StudyError(f"{path} cannot be written: {error.strerror or error}", status=1) from None
            lines.writerow([list_cell(files[one.image]), one.label, *([one.target_label] if targeted else [])])
            count += 1
    try:
        (root / LABELS).write_text(table.getvalue(), encoding="utf-8")
    except OSError as error:
        raise StudyError(f"{root / LABELS} cannot be written: {error.strerror}", status=1) from None
    return count


def list_cell(file: str) -> str:
    """Return a file name for a CSV list. A name that a spreadsheet would read as a formula gets the prefix `./`."""
    return f"./{file}" if file.startswith(("=", "+", "-", "@", "\t", "\r")) else file


def _units(craft: Craft, plan: Plan) -> Iterator[Unit]:
    for shard in plan.shards:
        yield Unit(craft.unit_id(shard), craft, shard, ())
