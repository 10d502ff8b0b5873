"""Some images of a run: clean, adversarial, how they differ, and what every target says of them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from study.analysis.transfer import succeeded
from study.errors import StudyError
from study.images import decoding
from study.images.image_sets import candidates
from study.images.selection import Selected
from study.planning.relation import MARKS
from study.report.html.data import Gathered
from study.report.html.page import Cell, Room, Table, island, note, picture, section, text
from study.reproducibility.hashing import digest
from study.storage.run_folder import RunFolder

_MOST_IMAGES, _MOST_CRAFTS, _MOST_BYTES = 6, 8, 3 * 2**20
_SMALL = 100
"""Images of fewer pixels a side are shown without smoothing."""

Pixels = NDArray[np.uint8]
Said = Mapping[str, Any]
_HEAD = ["target", "clean", "adversarial", "success"]


def gallery(gathered: Gathered, room: Room) -> str:
    """The section; the same images whenever it is made, drawn by a hash of their ids."""
    spec = gathered.spec
    kept = _kept(gathered)
    crafts = _crafts(gathered, set(kept["craft"].to_list()))
    ids = set(kept["image"].to_list())
    # Of two images, the one whose pixels were kept is shown.
    order = sorted(gathered.images, key=lambda one: (one.image not in ids, digest(spec.seed, one.image, "gallery")))
    images = order[:_MOST_IMAGES]
    if not crafts or not images:
        return ""
    clean, why = _clean(gathered, images)
    deltas = _deltas(gathered, crafts, images) if kept.height and clean else {}
    said = _said(gathered, crafts, images)
    shots = _Shots(spec.images.size < _SMALL)
    cards = [
        _card(gathered, one, crafts, (clean.get(one.image), deltas, said.get(one.image, {})), (shots, room))
        for one in images
    ]
    notes = [f"{len(images)} of {len(gathered.images):,} images, drawn by a hash of their ids."]
    notes.append("Difference: grey where nothing changed; the largest change of each image is stretched to full range.")
    notes += [why] if why else []
    if not kept.height:
        notes.append("No adversarial pixels: a run has them where its spec says `run: {keep_images: true}`.")
    if shots.full:
        notes.append("Some images are left out, to keep this file small.")
    data = {
        "crafts": [_named(gathered, one) for one in crafts],
        "images": [
            {place: rows for place, craft in enumerate(crafts) if (rows := said.get(one.image, {}).get(craft))}
            for one in images
        ],
    }
    parts = [*map(note, notes), f'<div class="gallery">{"".join(cards)}</div>', island("gallery-data", data)]
    return section("gallery", "Gallery", parts)


class _Shots:
    """Encodes images, until there are too many bytes of them."""

    def __init__(self, small: bool) -> None:
        self._classes = "pixels" if small else ""
        self._bytes = 0
        self.full = False

    def add(self, image: Pixels, said: str, caption: str, craft: int | None = None) -> str:
        """A button with the image (C, H, W)."""
        encoded = _encoded(image)
        if self._bytes + len(encoded) > _MOST_BYTES:
            self.full = True
            return ""
        self._bytes += len(encoded)
        mark = "" if craft is None else f' data-craft="{craft}"'
        shown = picture(encoded, "webp", said, self._classes)
        return f'<button type="button"{mark}>{shown}{text(caption)}</button>'


def _encoded(image: Pixels) -> bytes:
    """Lossless WebP."""
    from PIL import Image

    plain = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0).copy()).convert("RGB")
    written = io.BytesIO()
    plain.save(written, format="webp", lossless=True, quality=80, method=4, exact=True)
    return written.getvalue()


def amplified(delta: NDArray[np.int16]) -> tuple[Pixels, float]:
    """A perturbation around middle grey, its largest change stretched to the ends; and how many times."""
    most = int(np.abs(delta).max(initial=0))
    times = 127 / most if most else 1.0
    return np.clip(np.rint(128 + delta * times), 0, 255).astype(np.uint8), times


def _card(
    gathered: Gathered,
    image: Selected,
    crafts: Sequence[str],
    known: tuple[Pixels | None, Mapping[tuple[str, str], Pixels], Mapping[str, Sequence[Sequence[str]]]],
    into: tuple[_Shots, Room],
) -> str:
    clean, deltas, said = known
    shots, room = into
    name = gathered.spec.labels.words(image.label)[0]
    shown = []
    if clean is not None:
        shown.append(shots.add(clean, f"{name}, clean", "clean"))
        for place, craft in enumerate(crafts):
            delta = deltas.get((craft, image.image))
            if delta is None or delta.size != clean.size:
                continue
            adversarial = clean + delta.reshape(clean.shape)
            difference, times = amplified(adversarial.astype(np.int16) - clean)
            called = _named(gathered, craft)
            shown.append(shots.add(adversarial, f"{name}, adversarial: {called}", "adversarial", place))
            shown.append(
                shots.add(difference, f"difference, {times:.1f} times: {called}", f"difference x {times:.1f}", place)
            )
    first = next((rows for craft in crafts if (rows := said.get(craft))), [])
    lines = [[Cell(one) for one in row] for row in first]
    table = Table(f"What the targets say of {image.image}", _HEAD, lines).html(room)
    heading = f"<h3>{text(name)} <span class=note>{text(image.image)}</span></h3>"
    return f'<div class="card">{heading}<div class="shots">{"".join(shown)}</div>{table}</div>'


def _named(gathered: Gathered, craft: str) -> str:
    one = gathered.crafts.row(by_predicate=pl.col("craft") == craft, named=True)
    return f"{one['attack']} on {one['sources'] or 'elsewhere'}, {one['goal']}, seed {one['seed']}"


def _crafts(gathered: Gathered, kept: set[str]) -> list[str]:
    """A few crafts: those with pixels first, then as the experiments name their attacks, one of each before others."""
    spec = gathered.spec
    attacks = list(dict.fromkeys(name for one in spec.experiments.values() for name in one.attacks))
    place = {name: at for at, name in enumerate(attacks)}
    seen: dict[str, int] = {}
    ranked = []
    for one in gathered.crafts.filter(pl.col("attack").is_in(attacks)).iter_rows(named=True):
        turn = seen[one["attack"]] = seen.get(one["attack"], -1) + 1
        ranked.append((one["craft"] not in kept, turn, place[one["attack"]], one["craft"]))
    return [craft for *_, craft in sorted(ranked)[:_MOST_CRAFTS]]


def _clean(gathered: Gathered, images: Sequence[Selected]) -> tuple[dict[str, Pixels], str]:
    """The clean pixels of those that are where the spec says and what they were; and why others are not here."""
    spec, found = gathered.spec, {}
    try:
        files = {one.image: one.file for one in candidates(spec.images, spec.seed)}
        for one in images:
            if one.image in files:
                read = decoding.read(files[one.image], spec.images)
                if decoding.digest(read) == one.digest:
                    found[one.image] = read
    except StudyError as error:
        return found, f"Clean images are left out: {error.what}."
    lacking = len(images) - len(found)
    return found, f"{lacking} clean images are left out: not in the image set, or not as they were." if lacking else ""


def _kept(gathered: Gathered) -> pl.DataFrame:
    """Craft and image of all pixels that the run keeps."""
    from study.results import kept_images

    return kept_images.kept_pairs(RunFolder(gathered.run))


def _deltas(gathered: Gathered, crafts: Sequence[str], images: Sequence[Selected]) -> dict[tuple[str, str], Pixels]:
    """By craft and image, how the finished image differs from the clean one, modulo 256, flat."""
    from study.results import kept_images

    rows = kept_images.deltas(RunFolder(gathered.run), crafts, [one.image for one in images])
    return {
        (craft, image): np.frombuffer(delta, dtype=np.uint8)
        for craft, image, delta in rows.select("craft", "image", "delta").iter_rows()
    }


def _said(
    gathered: Gathered, crafts: Sequence[str], images: Sequence[Selected]
) -> dict[str, dict[str, list[list[str]]]]:
    """By image, by craft, a line for each target: its name, what it says of the clean and of the adversarial image."""
    spec = gathered.spec
    chosen = gathered.rows.filter(
        pl.col("craft").is_in(list(crafts)), pl.col("image").is_in([one.image for one in images])
    ).with_columns(succeeded().alias("success"))
    columns = ("craft", "attack", "image", "steps", "level", "target", "relation", "clean_top1", "top1", "top5_prob")
    rows = chosen.select(*columns, "names", "scores", "clean_names", "success").collect()
    place = {name: at for at, name in enumerate(spec.models)}
    found: dict[str, dict[str, list[list[str]]]] = {}
    for one in sorted(rows.iter_rows(named=True), key=lambda row: place.get(row["target"], 0)):
        if (one["steps"], one["level"]) == spec.attacks[one["attack"]].points[-1]:
            lines = found.setdefault(one["image"], {}).setdefault(one["craft"], [])
            target = one["target"] + MARKS.get(one["relation"], "")
            lines.append([target, *_words(gathered, one), "yes" if one["success"] else "no"])
    return found


def _words(gathered: Gathered, row: Said) -> tuple[str, str]:
    """Clean and adversarial answer of a target, in words."""
    if row["names"] is not None:
        return ", ".join(row["clean_names"] or ["–"]), ", ".join(row["names"] or ["–"])
    labels = gathered.spec.labels
    clean = "–" if row["clean_top1"] is None else labels.words(row["clean_top1"])[0]
    now = "–" if row["top1"] is None else f"{labels.words(row['top1'])[0]} ({100 * row['top5_prob'][0]:.0f} %)"
    return clean, now
