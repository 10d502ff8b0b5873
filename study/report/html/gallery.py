"""The gallery of the report: clean and adversarial images, their difference, and the answers of every target."""

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
from study.images.selection import Selected
from study.planning.relation import MARKS
from study.report.html.components import HtmlTable, text_cells
from study.report.html.report_data import ReportData
from study.reproducibility.hashing import digest
from study.results import kept_images
from study.storage.run_folder import RunFolder

_MOST_IMAGES, _MOST_CRAFTS, _MOST_BYTES = 6, 8, 3 * 2**20
_SMALL = 100
"""The page shows images with fewer pixels per side than this without smoothing."""

Pixels = NDArray[np.uint8]
Answers = Mapping[str, Mapping[str, Sequence[Sequence[str]]]]
"""By image and by craft: one row per target, with target, clean answer, adversarial answer, success."""


@dataclass(frozen=True)
class Thumbnail:
    """An image as lossless WebP in base64. `craft`: the index of its craft in the gallery; None for a clean image."""

    data: str
    alt: str
    caption: str
    craft: int | None


@dataclass(frozen=True)
class Card:
    """One image of the gallery."""

    label: str
    image: str
    thumbnails: Sequence[Thumbnail]
    answers: HtmlTable


@dataclass(frozen=True)
class Gallery:
    """The gallery. `answers`: data for the script of the page, which shows answers to the attack that a reader selects.

    `pixelated`: whether the page shows images without smoothing.
    """

    notes: Sequence[str]
    cards: Sequence[Card]
    answers: Mapping[str, Any]
    pixelated: bool


def gallery(data: ReportData) -> Gallery | None:
    """Make the gallery; None without rows. A hash of the ids draws the images, so they are the same in every report."""
    spec = data.spec
    kept = kept_images.kept_pairs(RunFolder(data.run))
    crafts = _crafts(data, set(kept["craft"]))
    with_pixels = set(kept["image"])
    order = sorted(data.images, key=lambda one: (one.image not in with_pixels, digest(spec.seed, one.image, "gallery")))
    images = order[:_MOST_IMAGES]
    if not crafts or not images:
        return None
    clean, problem = _clean_pixels(data, images)
    deltas = _deltas(data, list(crafts), images) if kept.height and clean else {}
    answers = _answers(data, list(crafts), images)
    thumbnails = _Thumbnails()
    cards = []
    for one in images:
        label = spec.labels.words(one.label)[0]
        shown = []
        if one.image in clean:
            own = {craft: deltas[craft, one.image] for craft in crafts if (craft, one.image) in deltas}
            shown = thumbnails.of(label, clean[one.image], own, crafts)
        first = next((rows for craft in crafts if (rows := answers.get(one.image, {}).get(craft))), [])
        head = ["target", "clean", "adversarial", "success"]
        table = HtmlTable(f"Answers to {one.image}", head, [text_cells(*row) for row in first])
        cards.append(Card(label, one.image, shown, table))
    notes = [
        f"{len(images)} of {len(data.images):,} images, drawn by a hash of their ids.",
        "Difference: grey means no change; the largest change of each image is stretched to the full range.",
        problem,
        "" if kept.height else "No adversarial pixels: a run keeps them with `run: {keep_images: true}` in its spec.",
        "Some images are left out to keep this file small." if thumbnails.full else "",
    ]
    by_image = [
        {place: rows for place, craft in enumerate(crafts) if (rows := answers.get(one.image, {}).get(craft))}
        for one in images
    ]
    for_script = {"crafts": list(crafts.values()), "images": by_image}
    return Gallery([one for one in notes if one], cards, for_script, spec.images.size < _SMALL)


@dataclass
class _Thumbnails:
    """Encodes images until they take `_MOST_BYTES` together."""

    size: int = 0
    full: bool = False

    def of(self, label: str, clean: Pixels, deltas: Mapping[str, Pixels], crafts: Mapping[str, str]) -> list[Thumbnail]:
        """The clean image (C, H, W), then the adversarial image and the difference of every craft."""
        shown = [self._encode(clean, f"{label}, clean", "clean", None)]
        for place, (craft, name) in enumerate(crafts.items()):
            if craft not in deltas or deltas[craft].size != clean.size:
                continue
            adversarial = clean + deltas[craft].reshape(clean.shape)
            difference, times = amplified(adversarial.astype(np.int16) - clean)
            shown.append(self._encode(adversarial, f"{label}, adversarial: {name}", "adversarial", place))
            alt = f"difference, amplified {times:.1f} times: {name}"
            shown.append(self._encode(difference, alt, f"difference x {times:.1f}", place))
        return [one for one in shown if one is not None]

    def _encode(self, image: Pixels, alt: str, caption: str, craft: int | None) -> Thumbnail | None:
        from PIL import Image

        plain = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0).copy()).convert("RGB")
        written = io.BytesIO()
        plain.save(written, format="webp", lossless=True, quality=20, method=0, exact=True)
        if self.size + written.tell() > _MOST_BYTES:
            self.full = True
            return None
        self.size += written.tell()
        return Thumbnail(base64.b64encode(written.getvalue()).decode(), alt, caption, craft)


def amplified(delta: NDArray[np.int16]) -> tuple[Pixels, float]:
    """Show a perturbation around middle grey, its largest change scaled to 127. Returns image and factor."""
    most = int(np.abs(delta).max(initial=0))
    times = 127 / most if most else 1.0
    return np.clip(np.rint(128 + delta * times), 0, 255).astype(np.uint8), times


def _crafts(data: ReportData, kept: set[str]) -> dict[str, str]:
    """The names of a few crafts, by id: first those with kept images, then one of each attack before a second one."""
    attacks = list(dict.fromkeys(name for one in data.spec.experiments.values() for name in one.attacks))
    place = {name: at for at, name in enumerate(attacks)}
    turns = dict.fromkeys(attacks, 0)
    ranked = []
    for one in data.crafts.filter(pl.col("attack").is_in(attacks)).iter_rows(named=True):
        name = f"{one['attack']} on {one['sources'] or 'elsewhere'}, {one['goal']}, seed {one['seed']}"
        ranked.append((one["craft"] not in kept, turns[one["attack"]], place[one["attack"]], one["craft"], name))
        turns[one["attack"]] += 1
    return {craft: name for *_, craft, name in sorted(ranked)[:_MOST_CRAFTS]}


def _clean_pixels(data: ReportData, images: Sequence[Selected]) -> tuple[dict[str, Pixels], str]:
    """The clean pixels of images that can be read and have not changed, and a sentence about images left out."""
    spec, found = data.spec, {}
    try:
        files = {one.image: one.file for one in candidates(spec.images, spec.seed)}
        for one in images:
            if one.image in files:
                pixels = decoding.read(files[one.image], spec.images)
                if decoding.digest(pixels) == one.digest:
                    found[one.image] = pixels
    except StudyError as error:
        return found, f"Clean images are left out: {error.what}."
    absent = len(images) - len(found)
    if not absent:
        return found, ""
    return found, f"Clean images left out, because they are missing or have changed: {absent}."


def _deltas(data: ReportData, crafts: Sequence[str], images: Sequence[Selected]) -> dict[tuple[str, str], Pixels]:
    """The flat difference between the adversarial and the clean image, modulo 256, by craft and image."""
    rows = kept_images.deltas(RunFolder(data.run), crafts, [one.image for one in images])
    return {
        (craft, image): np.frombuffer(delta, dtype=np.uint8)
        for craft, image, delta in rows.select("craft", "image", "delta").iter_rows()
    }


def _answers(data: ReportData, crafts: Sequence[str], images: Sequence[Selected]) -> Answers:
    """The answers of the targets after the last step of each attack."""
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
    """The answers of a target to the clean and to the adversarial image, as text."""
    if row["sentence"] is not None:
        return ", ".join(row["clean_names"] or ["–"]), row["sentence"] or "–"
    if row["names"] is not None:
        return ", ".join(row["clean_names"] or ["–"]), ", ".join(row["names"] or ["–"])
    labels = data.spec.labels
    clean = "–" if row["clean_top1"] is None else labels.words(row["clean_top1"])[0]
    now = "–" if row["top1"] is None else f"{labels.words(row['top1'])[0]} ({100 * row['top5_prob'][0]:.0f} %)"
    return clean, now
