"""Makes the gallery of the report: cards with clean and adversarial images, and the answers of every target.

The reader chooses the source models and the attack, for all cards together. The script of the page draws the difference
between the clean and the adversarial image.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from study.analysis.experiments import with_level
from study.analysis.rates import succeeded
from study.errors import StudyError
from study.images import decoding
from study.images.image_sets import candidates
from study.images.labels import ABSTAINED, LabelSet
from study.images.selection import Selected
from study.planning.relation import MARKS
from study.report.html.components import HtmlTable, text_cells
from study.report.html.report_data import ReportData
from study.reproducibility.hashing import digest
from study.results import kept_images
from study.storage.run_folder import RunFolder

_MOST_IMAGES, _MOST_CRAFTS, _MOST_BYTES = 6, 24, 4 * 2**20
_MOST_TRIED = 50
"""The largest number of images that the gallery tries to read, if some images are missing."""
_SMALL = 100
"""The number of pixels per side below which the page shows images without smoothing."""

Pixels = NDArray[np.uint8]
Answers = Mapping[str, Mapping[str, Sequence[Sequence[str]]]]
"""The answers of all targets, by image id and then by craft (id of the attack run).

Each target has a row of four texts: its name, its answer to the clean image, its answer to the adversarial image, and
whether the attack succeeds."""


@dataclass(frozen=True)
class Picture:
    """A picture in the gallery. `data` is a lossless WebP file in base64.

    `craft` is the index of its attack run in the gallery; None for a clean image.
    """

    data: str
    alt: str
    caption: str
    craft: int | None


@dataclass(frozen=True)
class Card:
    """A card of the gallery: one image with its true label, its id, its pictures and the targets' answers.

    `pictures` are the clean image and the adversarial images. `answers` are those for the first attack run.
    """

    label: str
    image: str
    pictures: Sequence[Picture]
    answers: HtmlTable


@dataclass(frozen=True)
class Gallery:
    """The gallery of the report.

    `choices` is data for the script of the page, which shows the attack run that the reader chooses. `first` is the
    name of the attack run that the page shows at first. `pixelated`: whether images are shown without smoothing.
    """

    notes: Sequence[str]
    cards: Sequence[Card]
    choices: Mapping[str, Any]
    first: str
    pixelated: bool


@dataclass(frozen=True)
class _Craft:
    """An attack run whose images the gallery shows."""

    id: str
    sources: str
    attack: str

    @property
    def title(self) -> str:
        return f"{self.attack} on {self.sources}"


def gallery(data: ReportData) -> Gallery | None:
    """Return the gallery of the run; None if the run has no rows.

    The images are chosen by a hash of their ids, so that every report of the run shows the same images. Images with
    kept adversarial pixels are preferred. Images whose clean pixels cannot be read are left out.
    """
    spec = data.spec
    kept = kept_images.kept_pairs(RunFolder(data.run))
    crafts = _crafts(data, set(kept["craft"]))
    with_pixels = set(kept["image"])
    order = sorted(data.images, key=lambda one: (one.image not in with_pixels, digest(spec.seed, one.image, "gallery")))
    if not crafts or not order:
        return None
    clean, problem = _clean_pixels(data, order)
    images = [one for one in order if one.image in clean]
    notes = [
        f"{len(images)} of {len(data.images):,} images, chosen by a hash of their ids." if images else "",
        "Click a card to enlarge it. In a difference, grey means no change; the largest change has the full range."
        if kept.height and images
        else "",
        problem,
        "" if kept.height else "No adversarial pixels: a run keeps them with `run: {keep_images: true}` in its spec.",
    ]
    if not images:
        return Gallery([one for one in notes if one], [], {}, "", pixelated=False)
    deltas = _deltas(data, [one.id for one in crafts], images) if kept.height else {}
    pictures, shown = _pictures(data, images, clean, deltas, crafts)
    if len(shown) < len(crafts) and deltas:
        notes.append(
            f"Of {len(crafts)} attack runs, the gallery shows {len(shown)}. The others have no kept images, or would "
            "make this file too large."
        )
    answers = _answers(data, [one.id for one in shown], images)
    cards = []
    for one in images:
        mine = answers.get(one.image, {})
        table = HtmlTable(
            f"Answers to {one.image}",
            ["target", "clean", "adversarial", "success"],
            [text_cells(*row) for row in mine.get(shown[0].id, ())],
        )
        cards.append(Card(spec.labels.words(one.label)[0], one.image, pictures[one.image], table))
    choices = {
        "crafts": [[one.sources, one.attack] for one in shown],
        "images": [
            {place: answers.get(one.image, {}).get(craft.id, []) for place, craft in enumerate(shown)} for one in images
        ],
    }
    notes = [one for one in notes if one]
    return Gallery(notes, cards, choices, shown[0].title, pixelated=spec.images.size < _SMALL)


def _pictures(
    data: ReportData,
    images: Sequence[Selected],
    clean: Mapping[str, Pixels],
    deltas: Mapping[tuple[str, str], Pixels],
    crafts: Sequence[_Craft],
) -> tuple[Mapping[str, list[Picture]], Sequence[_Craft]]:
    """Return the pictures of every image, and the attack runs that the gallery shows (at least one).

    Attack runs are left out if their pictures would make the page too large. If any adversarial images were kept,
    attack runs without kept images are left out too. Otherwise all attack runs are shown, with their answers only.
    """
    label = {one.image: data.spec.labels.words(one.label)[0] for one in images}
    found = {one.image: [_picture(clean[one.image], f"{label[one.image]}, clean", "clean", None)] for one in images}
    size, shown = sum(len(one.data) for many in found.values() for one in many), list[_Craft]()
    if not deltas:
        return found, crafts
    for craft in crafts:
        made = {}
        for one in images:
            delta, before = deltas.get((craft.id, one.image)), clean[one.image]
            if delta is not None and delta.size == before.size:
                alt = f"{label[one.image]}, adversarial: {craft.title}"
                made[one.image] = _picture(before + delta.reshape(before.shape), alt, "adversarial", len(shown))
        bytes_more = sum(len(one.data) for one in made.values())
        if made and (not shown or size + bytes_more <= _MOST_BYTES):
            size += bytes_more
            shown.append(craft)
            for image, picture in made.items():
                found[image].append(picture)
    return found, shown or crafts


def _picture(image: Pixels, alt: str, caption: str, craft: int | None) -> Picture:
    from PIL import Image

    plain = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0).copy()).convert("RGB")
    written = io.BytesIO()
    plain.save(written, format="webp", lossless=True, quality=20, method=0, exact=True)
    return Picture(base64.b64encode(written.getvalue()).decode(), alt, caption, craft)


def _crafts(data: ReportData, kept: set[str]) -> list[_Craft]:
    """Return at most 24 attack runs for the gallery: first those with kept images, then others.

    Each group is sorted by source set, goal, seed and attack. `kept`: the ids of the attack runs with kept images.
    """
    spec = data.spec
    experiments = spec.experiments.values()
    attacks = list(dict.fromkeys(name for one in experiments for name in one.attacks))
    sources = list(dict.fromkeys("+".join(each) for one in experiments for each in spec.source_sets(one)))
    runs = data.crafts.filter(pl.col("attack").is_in(attacks))
    several = {column for column in ("goal", "seed") if runs[column].n_unique() > 1}
    ranked = []
    for one in runs.iter_rows(named=True):
        place = sources.index(one["sources"]) if one["sources"] in sources else len(sources)
        order = (one["craft"] not in kept, place, one["goal"] == "targeted", one["seed"], attacks.index(one["attack"]))
        more = [one["goal"]] if "goal" in several else []
        more += [f"seed {one['seed']}"] if "seed" in several else []
        called = ", ".join([one["attack"], *more])
        ranked.append((*order, _Craft(one["craft"], one["sources"].replace("+", " + ") or "elsewhere", called)))
    return [craft for *_, craft in sorted(ranked, key=lambda one: one[:-1])[:_MOST_CRAFTS]]


def _clean_pixels(data: ReportData, images: Sequence[Selected]) -> tuple[dict[str, Pixels], str]:
    """Return the clean pixels of the first six images that can be read and have not changed, by image id.

    The second result is a sentence about the images that were left out; empty if none was left out.
    """
    spec, found, absent = data.spec, dict[str, Pixels](), 0
    try:
        files = {one.image: one.file for one in candidates(spec.images, spec.seed)}
    except StudyError as error:
        return found, f"No pictures: {error.what}."
    for one in images[:_MOST_TRIED]:
        if len(found) == _MOST_IMAGES:
            break
        try:
            pixels = decoding.read(files[one.image], spec.images) if one.image in files else None
        except StudyError:
            pixels = None
        if pixels is not None and decoding.digest(pixels) == one.digest:
            found[one.image] = pixels
        else:
            absent += 1
    return found, f"Images left out, because they are missing or have changed: {absent}." if absent else ""


def _deltas(data: ReportData, crafts: Sequence[str], images: Sequence[Selected]) -> dict[tuple[str, str], Pixels]:
    """Return the difference between the adversarial and the clean image, modulo 256, by craft (attack run) and image.

    The arrays are flat. They are those of the finished attack, after its last step.
    """
    rows = kept_images.deltas(RunFolder(data.run), crafts, [one.image for one in images])
    return {
        (craft, image): np.frombuffer(delta, dtype=np.uint8)
        for craft, image, delta in rows.select("craft", "image", "delta").iter_rows()
    }


def _answers(data: ReportData, crafts: Sequence[str], images: Sequence[Selected]) -> Answers:
    """Return the answers of all targets after the last step of each attack, by image and craft (attack run)."""
    spec = data.spec
    ids = [one.image for one in images]
    rows = with_level(data.finished.rows, spec).filter(pl.col("craft").is_in(crafts), pl.col("image").is_in(ids))
    columns = ("craft", "attack", "image", "steps", "level", "target", "relation", "clean_top1", "top1", "top5_prob")
    found = rows.select(*columns, "names", "clean_names", "sentence", succeeded().alias("success")).collect()
    place = {name: at for at, name in enumerate(spec.models)}
    answers: dict[str, dict[str, list[list[str]]]] = {}
    for one in sorted(found.iter_rows(named=True), key=lambda row: place.get(row["target"], 0)):
        if (one["steps"], one["level"]) == spec.attacks[one["attack"]].scored_points[-1]:
            target = one["target"] + MARKS.get(one["relation"], "")
            row = [target, *_clean_and_adversarial(data, one), "yes" if one["success"] else "no"]
            answers.setdefault(one["image"], {}).setdefault(one["craft"], []).append(row)
    return answers


def _clean_and_adversarial(data: ReportData, row: Mapping[str, Any]) -> tuple[str, str]:
    """Return the answers of a target to the clean image and to the adversarial image, as texts."""
    if row["sentence"] is not None:
        return ", ".join(row["clean_names"] or ["–"]), row["sentence"] or "–"
    if row["names"] is not None:
        return ", ".join(row["clean_names"] or ["–"]), ", ".join(row["names"] or ["–"])
    clean, now = (_top1_in_words(row[key], data.spec.labels) for key in ("clean_top1", "top1"))
    if row["top1"] not in (None, ABSTAINED):
        now += f" ({100 * row['top5_prob'][0]:.0f} %)"
    return clean, now


def _top1_in_words(top1: int | None, labels: LabelSet) -> str:
    """Return the predicted label as text. A voting target may have abstained: -1 is then no index of a label."""
    if top1 is None:
        return "–"
    return "abstains" if top1 == ABSTAINED else labels.words(top1)[0]
