"""The transfer matrix as a small picture: crafts by targets, darker where more images succeed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from study.tracking.ledger import Counts
from study.tracking.outline import Outline

if TYPE_CHECKING:
    from PIL.Image import Image

_MOST_ROWS, _MOST_COLUMNS = 60, 24
_CELL = (46, 18)
_MOST_LETTERS = 48
_EMPTY = (236, 236, 236)
_FULL = np.array([20, 64, 128])


def matrix(outline: Outline, counts: Counts) -> Image:
    """Success rates in percent, RGB; grey where nothing is known yet. Of very many crafts or targets only the first."""
    from PIL import Image, ImageDraw, ImageFont

    names = list(dict.fromkeys(name for craft in outline.crafts for name in craft.targets))[:_MOST_COLUMNS]
    rows: dict[str, dict[str, int]] = {}
    for number, cell in enumerate(outline.cells):
        rows.setdefault(cell.row, {})[cell.craft.targets[cell.target]] = number
    shown = list(rows.items())[:_MOST_ROWS]
    font = ImageFont.load_default(11)
    labels = [_short(name) for name, _ in shown]
    left = int(max((font.getlength(label) for label in labels), default=0)) + 10
    width, height = _CELL
    picture = Image.new("RGB", (left + width * len(names) + 4, height * (len(shown) + 1) + 4), "white")
    draw = ImageDraw.Draw(picture)
    for column, name in enumerate(names):
        draw.text((left + column * width + 2, 3), _fitted(name, font, width - 3), fill="black", font=font)
    for line, (_, cells) in enumerate(shown):
        top = (line + 1) * height
        draw.text((4, top + 2), labels[line], fill="black", font=font)
        for column, name in enumerate(names):
            if name not in cells:
                continue
            images, hits, _ = counts[cells[name]].tolist()
            corner = (left + column * width, top)
            opposite = (corner[0] + width - 2, corner[1] + height - 2)
            if not images:
                draw.rectangle((corner, opposite), fill=_EMPTY)
                continue
            share = hits / images
            colour = tuple(int(part) for part in np.rint(255 + (_FULL - 255) * share))
            draw.rectangle((corner, opposite), fill=colour)
            ink = "white" if share > 0.5 else "black"
            draw.text((corner[0] + 8, top + 2), f"{100 * share:.0f}", fill=ink, font=font)
    return picture


def _short(name: str) -> str:
    return name if len(name) <= _MOST_LETTERS else f"{name[: _MOST_LETTERS - 1]}…"


def _fitted(name: str, font: object, width: int) -> str:
    while name and font.getlength(name) > width:  # type: ignore[attr-defined]
        name = name[:-1]
    return name
