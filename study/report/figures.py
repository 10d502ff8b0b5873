"""The figures of the report, drawn with matplotlib. The same rows give the same bytes, in the page and as files."""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from study.analysis.minimal_rmsd import minimal_cdf
from study.errors import StudyError
from study.planning.relation import relation
from study.report.curves import Points, mean
from study.report.wording import MEASURES
from study.spec.schema import Spec

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#7f7f7f")
"""Okabe and Ito 2008: distinct for every kind of colour vision. Markers and dashes differ as well."""
_MARKERS = "osD^vP*X"
_DASHES = ("-", "--", "-.", ":")
_MOST_LINES, _MOST_PANELS, _MOST_POINTS = 16, 6, 2000
_STYLE: Any = {
    "svg.hashsalt": "study",
    "svg.fonttype": "none",
    # Embed TrueType fonts: publishers do not accept Type 3 fonts.
    "pdf.fonttype": 42,
    "font.family": "sans-serif",
    "font.size": 9,
    # Names of models and attacks may contain $, which must not start a formula.
    "text.parse_math": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


_WHOLE: Any = {"bbox_inches": "tight", "pad_inches": 0.08}
"""Options of `savefig` with which no label is cut off, however long it is."""

_AXES = {
    "steps": "number of steps",
    "gradients": "gradients per image",
    "budget": "budget, pixel values 0..255",
    "momentum": "decay of the momentum",
    "learning_rate": "learning rate, pixel values",
    "scales": "number of scales",
    "skip_gradient.gamma": "gradient of residual branches, factor gamma",
    "smoothing.sigma": "standard deviation of the noise, pixel values",
    "smoothing.copies": "number of noisy copies",
    "diversity.probability": "probability of a resized input",
    "variance.samples": "number of neighbours",
    "variance.beta": "distance of neighbours, multiples of epsilon",
    "kernel.size": "size of the kernel, pixels",
    "kernel.sigma": "standard deviation of the kernel, pixels",
    "admix.copies": "number of mixed images",
    "admix.strength": "share of the mixed image",
}
"""The label of an axis with its unit, by key of a number."""


def axis_words(along: str) -> str:
    """The label of the axis of a number; the key `along` itself if `_AXES` has no label for it."""
    return _AXES.get(along, along)


@dataclass(frozen=True)
class Drawing:
    """A figure for the page. `svg`: an SVG element with escaped text, whose ids are unique in the page."""

    svg: str
    caption: str


class Album:
    """The figures of one report."""

    def __init__(self, folder: Path | None = None, *, titles: bool = True) -> None:
        """`folder`: figures are also written into it as files. `titles`: whether figures in these files have titles.

        Raises StudyError if the folder cannot be made.
        """
        self._folder = folder
        self._titles = titles
        self._names: set[str] = set()
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StudyError(f"{folder} cannot be made: {error.strerror}", todo="name another folder") from None

    def add(self, name: str, figure: Figure | None, caption: str = "") -> Drawing | None:
        """Return the drawing of a figure; None if `figure` is None.

        If there is a folder, also write `<name>.svg`, `<name>.png` and `<name>.pdf`. Raises StudyError if a file cannot
        be written.
        """
        if figure is None:
            return None
        stem = re.sub(r"[^\w.+-]", "_", name)
        while stem in self._names:
            stem += "_"
        self._names.add(stem)
        drawn = svg(figure)
        if self._folder is not None:
            if not self._titles:
                figure.suptitle("")
            try:
                (self._folder / f"{stem}.svg").write_text(drawn if self._titles else svg(figure), encoding="utf-8")
                (self._folder / f"{stem}.png").write_bytes(png(figure))
                (self._folder / f"{stem}.pdf").write_bytes(pdf(figure))
            except OSError as error:
                raise StudyError(f"{self._folder / stem} cannot be written: {error.strerror}") from None
        label = str(figure.get_label() or caption or name)
        return Drawing(inlined(drawn, f"f{len(self._names)}-", label), caption)


@contextmanager
def names_as_text() -> Iterator[None]:
    """A context in which figures show names of models and labels as they are, never as formulas."""
    from matplotlib import rc_context

    with rc_context({"text.parse_math": False}):
        yield


def svg(figure: Figure) -> str:
    """The figure as an SVG file without a date."""
    from matplotlib import rc_context

    written = io.StringIO()
    with rc_context(_STYLE):
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None}, **_WHOLE)
    return written.getvalue()


def png(figure: Figure) -> bytes:
    """The figure as PNG with 200 dots per inch, without the version of the library."""
    from matplotlib import rc_context

    written = io.BytesIO()
    with rc_context(_STYLE):
        figure.savefig(written, format="png", dpi=200, metadata={"Software": None}, **_WHOLE)
    return written.getvalue()


def pdf(figure: Figure) -> bytes:
    """The figure as PDF with embedded fonts, without a date and without the version of the library."""
    from matplotlib import rc_context

    written = io.BytesIO()
    with rc_context(_STYLE):
        figure.savefig(
            written, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None}, **_WHOLE
        )
    return written.getvalue()


def inlined(drawn: str, prefix: str, label: str) -> str:
    """An SVG file as an element of a page. `prefix` is put before its ids, so that they are unique in the page."""
    element = drawn[drawn.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.S)
    element = re.sub(r'(?<= id=")', prefix, element)
    element = re.sub(r"(?<=url\(#)", prefix, element)
    element = re.sub(r'(?<=href="#)', prefix, element)
    return element.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)


@contextmanager
def _blank(columns: int, title: str, wide: float = 4.4) -> Iterator[tuple[Figure, list[Axes]]]:
    """A context with a new figure and its `columns` panels. Inside it, drawing follows our style."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    across = min(3, columns)
    down = -(-columns // across)
    with rc_context(_STYLE):
        figure = Figure(figsize=(1.4 + wide * across * (1 if across == 1 else 0.8), 0.9 + 2.9 * down), label=title)
        grid = figure.subplots(down, across, squeeze=False, sharey=True)
        panels = list(grid.flat)
        for empty in panels[columns:]:
            empty.set_visible(False)
        figure.suptitle(title, fontsize=10)
        yield figure, panels[:columns]


def success_by_rmsd(cells: pl.DataFrame, attacks: Iterable[str], title: str) -> Figure | None:
    """Black-box success rate against RMSD: one mark per attack, attack point, and source set.

    `cells`: the result of `experiments.averaged`. None for fewer than two black-box means, or more than 2,000.
    """
    means = (
        cells.filter(pl.col("relation") == "black")
        .group_by("attack", "steps", "level", "sources")
        .agg(pl.col("success").mean(), pl.col("rmsd").mean())
        .sort("attack", "steps", "level", "sources")
    )
    figure = _scatter(means, "rmsd", attacks, f"{title}: success against RMSD", "RMSD (mean), pixel values 0..255")
    if figure is not None:
        figure.axes[0].set_xlim(0, 1.08 * max(means["rmsd"].to_list()) or 1)
    return figure


def success_by_measure(found: pl.DataFrame, measure: str, attacks: Iterable[str], title: str) -> Figure | None:
    """Black-box success rate against a measure of visibility: one mark per attack and attack point.

    `found`: the result of `analysis.visibility`. None for fewer than two marks, or more than 2,000.
    """
    name, words = MEASURES[measure]
    return _scatter(found.drop_nulls(["success", measure]), measure, attacks, f"{title}: success against {name}", words)


def success_by_gradients(found: pl.DataFrame, attacks: Iterable[str], title: str) -> Figure | None:
    """Black-box success rate against gradients of one image, on a logarithmic axis: one mark for each row of `found`.

    `found` has `attack`, `success` and `gradients`. None for fewer than two marks, or more than 2,000.
    """
    paid = found.drop_nulls(["success", "gradients"]).filter(pl.col("gradients") > 0)
    figure = _scatter(paid, "gradients", attacks, f"{title}: success against cost", "gradients of one image")
    if figure is not None:
        figure.axes[0].set_xscale("log")
    return figure


def _scatter(means: pl.DataFrame, along: str, attacks: Iterable[str], title: str, words: str) -> Figure | None:
    """Success against the column `along`, with a mark for each row; None for fewer than two or more than 2,000 rows."""
    if not 2 <= means.height <= _MOST_POINTS:
        return None
    with _blank(1, title, 5.2) as (figure, (axes,)):
        for place, attack in enumerate(dict.fromkeys(attacks)):
            mine = means.filter(attack=attack)
            if mine.height:
                axes.scatter(
                    mine[along].to_list(),
                    (100 * mine["success"]).to_list(),
                    s=34,
                    color=_COLOURS[place % len(_COLOURS)],
                    marker=_MARKERS[(place + place // len(_COLOURS)) % len(_MARKERS)],
                    label=attack,
                    linewidths=0,
                )
        _percent(axes)
        axes.set_xlabel(words)
        axes.set_ylabel("success rate on black-box targets, %")
        _legend(figure, [axes])
    return figure


def curve(lines: Mapping[str, Points], along: str, title: str, kind: str = "black-box") -> Figure | None:
    """Draw one panel per target, or, for more than six targets, one panel with their mean.

    None if no line has two points. `kind`: the relation of the targets to the sources, for labels.
    """
    if len(lines) > _MOST_PANELS:
        lines = {f"mean of all {kind} targets": _averaged(lines)}
    drawn = {target: {name: one for name, one in of.items() if one} for target, of in lines.items()}
    if not any(len(one) > 1 for of in drawn.values() for one in of.values()):
        return None
    from matplotlib.ticker import MaxNLocator

    names = list(dict.fromkeys(name for of in drawn.values() for name in of))[:_MOST_LINES]
    words = axis_words(along)
    with _blank(len(drawn), f"{title}: success against {words.partition(',')[0]}") as (figure, panels):
        for axes, (target, of) in zip(panels, drawn.items(), strict=True):
            for place, name in enumerate(names):
                if name in of:
                    _line(axes, of[name], place, name)
            axes.set_title(target, fontsize=9)
            _percent(axes)
            axes.set_xlabel(words)
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=along in {"steps", "gradients"}))
        panels[0].set_ylabel(f"success rate on {kind} targets, %")
        _legend(figure, panels)
    return figure


def _averaged(lines: Mapping[str, Points]) -> Points:
    collected: dict[str, dict[float, list[tuple[float, float, float]]]] = {}
    for of in lines.values():
        for name, points in of.items():
            for x, *rate in points:
                collected.setdefault(name, {}).setdefault(x, []).append((rate[0], rate[1], rate[2]))
    return {name: [(x, *mean(there)) for x, there in sorted(of.items())] for name, of in collected.items()}


def _line(axes: Axes, points: Sequence[tuple[float, float, float, float]], place: int, name: str) -> None:
    x = [one for one, *_ in points]
    success, low, high = ([100 * one[index] for one in points] for index in (1, 2, 3))
    colour = _COLOURS[place % len(_COLOURS)]
    axes.plot(x, success, _DASHES[place // 2 % 4], color=colour, marker=_MARKERS[place % 8], ms=4, lw=1.3, label=name)
    if not any(map(math.isnan, low)):
        axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)


def searches(rows: pl.LazyFrame, spec: Spec, title: str) -> Iterator[tuple[str, Figure]]:
    """For each attack, draw the distribution of the smallest RMSD that fools each target: Liu et al. 2017, figure 1."""
    cdf = minimal_cdf(rows, spec)
    for (attack,), mine in cdf.partition_by("attack", as_dict=True, maintain_order=True).items():
        source_sets = mine["sources"].unique(maintain_order=True).to_list()[:_MOST_PANELS]
        targets = mine["target"].unique(maintain_order=True).to_list()[:_MOST_LINES]
        with _blank(len(source_sets), f"{title}: smallest RMSD that succeeds, {attack}") as (figure, panels):
            for axes, sources in zip(panels, source_sets, strict=True):
                for place, target in enumerate(targets):
                    one = mine.filter(sources=sources, target=target)
                    if one.height:
                        kind = relation(spec.models, sources.split("+") if sources else (), target)
                        axes.step(
                            [0.0, *one["rmsd"].to_list()],
                            [0.0, *(100 * one["share"]).to_list()],
                            _DASHES[place // 2 % 4],
                            where="post",
                            color=_COLOURS[place % len(_COLOURS)],
                            lw=1.4,
                            label=target + ("" if kind == "black" else f" ({kind}-box)"),
                        )
                axes.set_title(f"sources: {sources}", fontsize=9)
                axes.set_xlabel("RMSD, pixel values 0..255")
                _percent(axes)
                axes.legend(fontsize=8)
            panels[0].set_ylabel("images, %")
        yield str(attack), figure


def destruction(rates: pl.DataFrame, attacks: Iterable[str], title: str) -> Figure | None:
    """Destruction rate by target (Kurakin et al. 2017; Wu et al. 2019, figure 5): one series per attack.

    `rates` has `attack`, `target` and `destruction` (0..1, or null). None if every rate is null.
    """
    known = rates.drop_nulls("destruction")
    if known.is_empty():
        return None
    targets = known["target"].unique(maintain_order=True).to_list()
    drawn = [attack for attack in dict.fromkeys(attacks) if attack in set(known["attack"])][:_MOST_LINES]
    wide = 1.6 + 0.62 * len(targets)
    with _blank(1, f"{title}: images that a transformation restores", wide) as (figure, (axes,)):
        for place, attack in enumerate(drawn):
            mine = dict(known.filter(attack=attack).select("target", "destruction").iter_rows())
            beside = (place - (len(drawn) - 1) / 2) * 0.5 / max(1, len(drawn) - 1)
            axes.plot(
                [index + beside for index, target in enumerate(targets) if target in mine],
                [100 * mine[target] for target in targets if target in mine],
                _MARKERS[place % 8],
                color=_COLOURS[place % len(_COLOURS)],
                ms=6,
                label=attack,
            )
        axes.set_xticks(range(len(targets)), targets, rotation=30, ha="right")
        axes.set_ylabel("destruction rate, %")
        _percent(axes)
        _legend(figure, [axes])
    return figure


def _percent(axes: Axes) -> None:
    axes.set_ylim(-3, 103)


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """Draw one legend for all panels, because a panel may lack some lines."""
    known: dict[str, Artist] = {}
    for axes in panels:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            known.setdefault(str(name), handle)
    if known:
        figure.legend(known.values(), known.keys(), loc="outside right center", fontsize=8)
