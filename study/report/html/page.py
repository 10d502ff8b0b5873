"""What a page is put together from: text that can do no harm, tables that scroll, cells coloured by their number."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

Colour = tuple[int, int, int]

LEVELS = 50
"""How many steps the ramp from 0 to 1 has: two percent each."""
_ANCHORS: tuple[Colour, ...] = ((247, 251, 255), (198, 219, 239), (107, 174, 214), (33, 113, 181), (8, 48, 107))
"""One hue from light to dark: told apart in grey, and by every kind of colour vision."""
_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)
_MOST_LINES, _MOST_CELLS = 300, 24_000
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def text(value: object) -> str:
    """The value as text of a page, also between quotes: nothing in it is markup."""
    return html.escape(str(value), quote=True)


def island(name: str, value: Any) -> str:
    """JSON for the page's script to read. No `</script>` and no comment can stand in it."""
    dumped = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for mark in "<>&\u2028\u2029":
        dumped = dumped.replace(mark, f"\\u{ord(mark):04x}")
    return f'<script type="application/json" id="{text(name)}">{dumped}</script>'


def ramp(share: float) -> Colour:
    """The background of a share 0..1."""
    place = min(max(share, 0.0), 1.0) * (len(_ANCHORS) - 1)
    low = min(int(place), len(_ANCHORS) - 2)
    ends = zip(_ANCHORS[low], _ANCHORS[low + 1], strict=True)
    red, green, blue = (round(one + (other - one) * (place - low)) for one, other in ends)
    return red, green, blue


def ink(background: Colour) -> Colour:
    """Black or white, whichever is further from the background: one of them always has a contrast of 4.5 or more."""
    return max((_BLACK, _WHITE), key=lambda one: contrast(one, background))


def contrast(one: Colour, other: Colour) -> float:
    """The contrast ratio of WCAG 2.1, 1..21."""
    bright, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def _luminance(colour: Colour) -> float:
    parts = [one / 255 for one in colour]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def ramp_css() -> str:
    """A class for each step of the ramp, `h0` to `h50`."""
    lines = []
    for level in range(LEVELS + 1):
        back = ramp(level / LEVELS)
        lines.append(f".h{level}{{background:rgb{back};color:rgb{ink(back)}}}".replace(" ", ""))
    return "\n".join(lines)


@dataclass(frozen=True)
class Cell:
    """A cell of a table. `share` (0..1) colours it, `tip` is said on hover and focus, `number` sets it to the right."""

    shown: str
    share: float | None = None
    tip: str = ""
    number: bool = False
    mark: str = "black"
    """How the target of a number stands to its sources: white and grey have a class of their own."""

    def html(self) -> str:
        classes = ["n"] if self.number or self.share is not None else []
        if self.share is not None:
            classes.append(f"h{round(self.share * LEVELS)}")
        if self.mark != "black":
            classes.append(self.mark[0])
        marks = f' class="{" ".join(classes)}"' if classes else ""
        tip = f' title="{text(self.tip)}"' if self.tip else ""
        return f"<td{marks}{tip}>{text(self.shown)}</td>"


def words(*values: object) -> list[Cell]:
    """Plain cells; numbers go to the right."""
    return [Cell(str(one), number=isinstance(one, int | float) and not isinstance(one, bool)) for one in values]


NOTHING = Cell("–", number=True)


@dataclass
class Room:
    """How many more cells the page takes: what is beyond is cut, and said to be."""

    cells: int = _MOST_CELLS

    def lines(self, width: int, wanted: int) -> int:
        """How many of the wanted lines of so many cells there is room for: 20 at least."""
        given = min(wanted, _MOST_LINES, max(20, self.cells // max(1, width)))
        self.cells -= given * width
        return given


@dataclass(frozen=True)
class Table:
    """A table that can be sorted and filtered. `whole` is the line of Python that gives all of it, where it is cut."""

    title: str
    head: Sequence[str]
    lines: Sequence[Sequence[Cell]]
    whole: str = ""
    grid: bool = False
    """Whether its cells can be walked through with the arrow keys."""
    notes: Sequence[str] = field(default=())

    def html(self, room: Room) -> str:
        shown = room.lines(len(self.head), len(self.lines))
        numbers = [bool(self.lines) and (one.number or one.share is not None) for one in (self.lines or [[]])[0]]
        heads = "".join(
            f'<th scope="col"{" class=n" if number else ""}>{text(one)}</th>'
            for one, number in zip(self.head, numbers or [False] * len(self.head), strict=True)
        )
        body = "\n".join("<tr>" + "".join(cell.html() for cell in line) + "</tr>" for line in self.lines[:shown])
        parts = [
            f'<div class="table"><div class="box" role="region" tabindex="0" aria-label="{text(self.title)}">'
            f"<table{' class=grid' if self.grid else ''}><caption>{text(self.title)}</caption>"
            f"<thead><tr>{heads}</tr></thead><tbody>\n{body}\n</tbody></table></div>"
        ]
        if shown < len(self.lines):
            parts.append(f"<p class=note>The first {shown} of {len(self.lines):,} lines. All of them:</p>")
            parts.append(f'<pre tabindex="0" class="code">{text(self.whole)}</pre>' if self.whole else "")
        return "".join([*parts, *(note(one) for one in self.notes), "</div>"])


def note(said: str) -> str:
    return f'<p class="note">{text(said)}</p>'


def section(name: str, title: str, parts: Iterable[str], *, level: int = 2) -> str:
    """A part of the page; nothing where there is nothing in it."""
    inside = "\n".join(part for part in parts if part)
    if not inside:
        return ""
    heading = f"<h{level}>{text(title)}</h{level}>"
    return f'<section id="{text(name)}" data-title="{text(title)}">{heading}\n{inside}\n</section>'


def folded(title: str, inside: str) -> str:
    """A part that is closed until it is asked for."""
    return f"<details><summary>{text(title)}</summary>\n{inside}\n</details>" if inside else ""


def picture(content: bytes, kind: str, said: str, classes: str = "") -> str:
    """An image inside the page; `kind` is png or webp."""
    data = base64.b64encode(content).decode()
    return f'<img class="{text(classes)}" alt="{text(said)}" src="data:image/{kind};base64,{data}">'


def page(title: str, nav: Sequence[tuple[str, str]], body: str) -> str:
    """The whole file. Of scripts, only ours can run: its hash stands in the page's policy."""
    assets = files("study.report") / "assets"
    style = (assets / "report.css").read_text(encoding="utf-8") + ramp_css()
    script = (assets / "report.js").read_text(encoding="utf-8")
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    links = "".join(f'<li><a href="#{text(name)}">{text(said)}</a></li>' for name, said in nav)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}; script-src \'sha256-{allowed}\'">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>\n{style}\n</style></head><body>\n"
        f'<a class="skip" href="#top">To the report</a><nav aria-label="Sections"><ul>{links}</ul></nav>\n'
        f'<main id="top">\n{body}\n</main>\n<div id="tip" role="status" hidden></div>\n'
        f"<script>{script}</script>\n</body></html>\n"
    )
