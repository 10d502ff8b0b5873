"""Draws the figures of the report with matplotlib. Equal rows give equal bytes, in the page and in figure files."""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
"""The colours of marks and lines (Okabe and Ito 2008), which people with colour blindness can distinguish.

Marks also differ in shape, and lines in their dashes."""
_MARKERS = "osD^vP*X"
_DASHES = ("-", "--", "-.", ":")
_DECADE, _SPREAD = 10, 0.02
"""Limits of ratios. The axis of gradients is logarithmic if its largest value is more than _DECADE times the smallest.

A figure over RMSD is drawn only if the RMSDs differ by at least the share _SPREAD of the largest RMSD."""
_LEGEND_LETTERS, _LEGEND_LINE = 44, 0.17
"""The number of letters in a line of a legend in the page, and the height of such a line in inches."""
_MOST_LINES, _MOST_PANELS, _MOST_POINTS = 16, 6, 2000
_STYLE: Any = {
    "svg.hashsalt": "study",
    "svg.fonttype": "none",
    # Embed TrueType fonts, because publishers do not accept Type 3 fonts.
    "pdf.fonttype": 42,
    "font.family": "sans-serif",
    "font.size": 9,
    # Names of models and attacks may contain $. It must not start a formula.
    "text.parse_math": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


_PAGE = (4.4, 3.3)
"""The width and the height of a panel in the page, in inches."""

_WHOLE: Any = {"bbox_inches": "tight", "pad_inches": 0.08}
"""Options of `savefig` that make the figure large enough for long labels."""

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
"""The label of the x axis, with its unit, by `steps`, `gradients`, `budget` or the key of a number in a recipe."""


def axis_words(along: str) -> str:
    """Return the label of the x axis for the number `along`; `along` itself if `_AXES` has no label."""
    return _AXES.get(along, along)


@dataclass(frozen=True)
class Drawing:
    """A figure for the HTML page.

    `svg` has one SVG element for each panel. Ids are unique in the page, and texts are escaped. A `themed` figure has
    the light or dark colours of the page. Other figures have a white background.
    """

    svg: str
    caption: str
    title: str = ""
    themed: bool = False


class Album:
    """A converter of matplotlib figures to drawings for one page. It can also write the figures as files."""

    def __init__(self, folder: Path | None = None, *, titles: bool = True) -> None:
        """`folder`: the folder for figure files; None for no files. `titles`: whether the figures in files have titles.

        Raises StudyError if the folder cannot be created.
        """
        self._folder = folder
        self._titles = titles
        self._names: set[str] = set()
        self._panels = 0
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StudyError(f"{folder} cannot be created: {error.strerror}", todo="name another folder") from None

    def add(self, name: str, figure: Figure | None, caption: str = "") -> Drawing | None:
        """Return the drawing of `figure` for the page; None if `figure` is None.

        If there is a folder for files, also write `<name>.svg`, `<name>.png` and `<name>.pdf`. Raises StudyError if a
        file cannot be written.
        """
        if figure is None:
            return None
        drawn = svg(figure)
        self._write(name, figure)
        label = str(figure.get_label() or caption or name)
        return Drawing(self._inlined(drawn, label), caption)

    def chart(
        self, name: str, whole: Callable[[], Figure | None], panels: Sequence[Figure], caption: str
    ) -> Drawing | None:
        """Return the drawing of the figures `panels` for the page; None if there are no panels.

        Each panel is narrow enough for a phone. If there is a folder for files, also write the figure that `whole`
        draws, which has the panels side by side. Raises StudyError if a file cannot be written.
        """
        if not panels:
            return None
        figure = None if self._folder is None else whole()
        if figure is not None:
            self._write(name, figure)
        labels = [str(panel.get_label()) for panel in panels]
        drawn = "".join(self._inlined(themed(svg(panel)), label) for panel, label in zip(panels, labels, strict=True))
        return Drawing(drawn, caption, labels[0].partition(" | ")[0], themed=True)

    def _inlined(self, drawn: str, label: str) -> str:
        self._panels += 1
        return inlined(drawn, f"f{self._panels}-", label)

    def _write(self, name: str, figure: Figure) -> None:
        """Write a figure into the folder for files, if there is one, as SVG, PNG and PDF with a unique name."""
        if self._folder is None:
            return
        stem = re.sub(r"[^\w.+-]", "_", name)
        while stem in self._names:
            stem += "_"
        self._names.add(stem)
        if not self._titles:
            figure.suptitle("")
        try:
            (self._folder / f"{stem}.svg").write_text(svg(figure), encoding="utf-8")
            (self._folder / f"{stem}.png").write_bytes(png(figure))
            (self._folder / f"{stem}.pdf").write_bytes(pdf(figure))
        except OSError as error:
            raise StudyError(f"{self._folder / stem} cannot be written: {error.strerror}") from None


@contextmanager
def names_as_text() -> Iterator[None]:
    """Return a context in which matplotlib does not treat $ in names of models and labels as the start of a formula."""
    from matplotlib import rc_context

    with rc_context({"text.parse_math": False}):
        yield


def svg(figure: Figure) -> str:
    """Return the figure as an SVG file without a date."""
    from matplotlib import rc_context

    written = io.StringIO()
    with rc_context(_STYLE):
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None}, **_WHOLE)
    return written.getvalue()


def png(figure: Figure) -> bytes:
    """Return the figure as PNG with 200 dots per inch. The file does not contain the version of matplotlib."""
    from matplotlib import rc_context

    written = io.BytesIO()
    with rc_context(_STYLE):
        figure.savefig(written, format="png", dpi=200, metadata={"Software": None}, **_WHOLE)
    return written.getvalue()


def pdf(figure: Figure) -> bytes:
    """Return the figure as PDF with embedded fonts, without a date and without the version of matplotlib."""
    from matplotlib import rc_context

    written = io.BytesIO()
    with rc_context(_STYLE):
        figure.savefig(
            written, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None}, **_WHOLE
        )
    return written.getvalue()


def inlined(drawn: str, prefix: str, label: str) -> str:
    """Return the SVG file `drawn` as an element for an HTML page.

    `prefix` is put before all ids, so that they are unique in the page. `label` describes the figure to screen readers.
    """
    element = drawn[drawn.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.S)
    element = re.sub(r'(?<= id=")', prefix, element)
    element = re.sub(r"(?<=url\(#)", prefix, element)
    element = re.sub(r'(?<=href="#)', prefix, element)
    return element.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)


def themed(drawn: str) -> str:
    """Return an SVG file with the colours of the page.

    Black becomes the text colour of the page, white becomes transparent, and grid lines get the grid colour of the
    page.
    """
    for fixed, named in (("#000000", "currentColor"), ("#ffffff", "none"), ("#dddddd", "var(--grid)")):
        drawn = re.sub(rf"(?<=: ){fixed}(?=[;\"])", named, drawn)
    return drawn


@contextmanager
def _blank(columns: int, title: str, wide: float = 4.4, *, page: bool = False) -> Iterator[tuple[Figure, list[Axes]]]:
    """Return a context with a new figure and its panels, in which matplotlib uses our style.

    `columns` is the number of panels. `wide` is the width of a panel in inches. With `page`, the figure is for the HTML
    page. It then has one panel that is as wide as a phone. It has no title, because the page shows the title as text.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    across = min(3, columns)
    down = -(-columns // across)
    with rc_context(_STYLE):
        if page:
            figure = Figure(figsize=_PAGE, label=title)
            yield figure, [figure.subplots()]
            return
        figure = Figure(figsize=(1.4 + wide * across * (1 if across == 1 else 0.8), 0.9 + 2.9 * down), label=title)
        grid = figure.subplots(down, across, squeeze=False, sharey=True)
        panels = list(grid.flat)
        for empty in panels[columns:]:
            empty.set_visible(False)
        figure.suptitle(title, fontsize=10)
        yield figure, panels[:columns]


def success_by_rmsd(cells: pl.DataFrame, attacks: Iterable[str], title: str, *, page: bool = False) -> Figure | None:
    """Return a figure of black-box success rates over RMSD.

    It has one mark for each attack, point (number of steps and budget) and source set: the mean over black-box targets.
    `cells`: the result of `experiments.averaged`. Return None if there are fewer than 2 or more than 2,000 marks, or if
    all RMSDs are nearly equal.
    """
    means = (
        cells.filter(pl.col("relation") == "black")
        .group_by("attack", "steps", "level", "sources")
        .agg(pl.col("success").mean(), pl.col("rmsd").mean())
        .sort("attack", "steps", "level", "sources")
    )
    rmsd = means["rmsd"].to_list()
    if not rmsd or max(rmsd) - min(rmsd) < _SPREAD * max(rmsd):
        return None
    words = "RMSD (mean), pixel values 0..255"
    figure = _scatter(means, "rmsd", attacks, f"{title}: success against RMSD", words, page=page)
    if figure is not None:
        figure.axes[0].set_xlim(0, 1.08 * max(means["rmsd"].to_list()) or 1)
    return figure


def success_by_measure(
    found: pl.DataFrame, measure: str, attacks: Iterable[str], title: str, *, page: bool = False
) -> Figure | None:
    """Return a figure of black-box success rates over the cost (`gradients`) or over a measure of visibility.

    It has one mark for each row of `found` that has both values. `found` has columns like the result of
    `analysis.visibility`. `measure`: the column for the x axis.
    Return None if there are fewer than 2 or more than 2,000 marks, or if all values of the measure are equal.
    """
    name, words = MEASURES[measure]
    known = found.drop_nulls(["success", measure])
    values = known[measure].cast(pl.Float64).to_list()
    if len(set(values)) < 2:
        return None
    figure = _scatter(known, measure, attacks, f"{title}: success against {name}", words, page=page)
    if figure is not None and measure == "gradients" and max(values) > _DECADE * min(values):
        axis = figure.axes[0]
        axis.set_xscale("log")
        # By default, the labels of a logarithmic axis are formulas, but our style prints formulas as plain text.
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.xaxis.set_minor_formatter("")
    return figure


def _scatter(
    means: pl.DataFrame, along: str, attacks: Iterable[str], title: str, words: str, *, page: bool
) -> Figure | None:
    """Return a figure of success rates over the column `along`, with a mark for each row of `means`.

    Return None if there are fewer than 2 or more than 2,000 rows. `words`: the label of the x axis.
    """
    if not 2 <= means.height <= _MOST_POINTS:
        return None
    with _blank(1, title, 5.2, page=page) as (figure, (axes,)):
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
        _legend(figure, [axes], page=page)
    return figure


def curve(lines: Mapping[str, Points], along: str, title: str, kind: str = "black-box") -> Figure | None:
    """Return a figure of success rates over the number `along`, with one panel for each target.

    If there are more than six targets, the figure has one panel with their mean. `lines`: the points of the lines, by
    target. `kind`: the relation of the targets to the sources, for labels. Return None if no line has two points.
    """
    drawn, names, part = _drawable(lines, kind)
    if not drawn:
        return None
    with _blank(len(drawn), _against(title, along) + part) as (figure, panels):
        for axes, (target, of) in zip(panels, drawn.items(), strict=True):
            _panel(axes, target, of, along, names)
        panels[0].set_ylabel(f"success rate on {kind} targets, %")
        _legend(figure, panels)
    return figure


def curve_panels(lines: Mapping[str, Points], along: str, title: str, kind: str = "black-box") -> list[Figure]:
    """Return the panels of `curve` as single figures for the page, each with its own legend.

    A line has the same colour in all panels.
    """
    drawn, names, part = _drawable(lines, kind)
    found = []
    for target, of in drawn.items():
        with _blank(1, f"{_against(title, along)} | {target}{part}", page=True) as (figure, (axes,)):
            _panel(axes, target, of, along, names)
            axes.set_ylabel("success rate, %")
            _legend(figure, [axes], page=True)
        found.append(figure)
    return found


def _against(title: str, along: str) -> str:
    return f"{title}: success against {axis_words(along).partition(',')[0]}"


def _drawable(lines: Mapping[str, Points], kind: str) -> tuple[Mapping[str, Points], Sequence[str], str]:
    """Return the lines of each panel, the names of at most 16 lines to draw, and a text for the end of the title.

    The text says that lines are left out; it is empty if all lines are drawn. If no line has two points, all three
    results are empty.
    """
    if len(lines) > _MOST_PANELS:
        lines = {f"mean of all {kind} targets": _averaged(lines)}
    drawn = {target: {name: one for name, one in of.items() if one} for target, of in lines.items()}
    if not any(len(one) > 1 for of in drawn.values() for one in of.values()):
        return {}, [], ""
    every = list(dict.fromkeys(name for of in drawn.values() for name in of))
    return drawn, every[:_MOST_LINES], _part_of(every)


def _part_of(every: Sequence[str]) -> str:
    """Return the end of a title, which says that only the first 16 series of `every` are drawn; empty for up to 16."""
    return f" (the first {_MOST_LINES} of {len(every)})" if len(every) > _MOST_LINES else ""


def _panel(axes: Axes, target: str, of: Points, along: str, names: Sequence[str]) -> None:
    from matplotlib.ticker import MaxNLocator

    for place, name in enumerate(names):
        if name in of:
            _line(axes, of[name], place, name)
    axes.set_title(target, fontsize=9)
    _percent(axes)
    axes.set_xlabel(axis_words(along))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=along in {"steps", "gradients"}))


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


@dataclass(frozen=True)
class Searches:
    """The figure of one attack's searches for the minimal RMSD, as in figure 1 of Liu et al. 2017.

    It shows, for each target, the distribution over images of the smallest RMSD that fools the target. `cdf`: the rows
    of `minimal_cdf` for this attack.
    """

    attack: str
    title: str
    cdf: pl.DataFrame
    spec: Spec

    @property
    def _title(self) -> str:
        return self.title + _part_of(self.cdf["target"].unique(maintain_order=True).to_list())

    @property
    def source_sets(self) -> list[str]:
        """The source sets that are drawn: at most six, with a panel for each."""
        return self.cdf["sources"].unique(maintain_order=True).to_list()[:_MOST_PANELS]

    def whole(self) -> Figure:
        """Return the figure with all panels side by side."""
        with _blank(len(self.source_sets), self._title) as (figure, panels):
            for axes, sources in zip(panels, self.source_sets, strict=True):
                self._panel(axes, sources)
                axes.legend(fontsize=8)
            panels[0].set_ylabel("images, %")
        return figure

    def panels(self) -> list[Figure]:
        """Return the panels as single figures for the page."""
        found = []
        for sources in self.source_sets:
            with _blank(1, f"{self._title} | {sources}", page=True) as (figure, (axes,)):
                self._panel(axes, sources)
                axes.set_ylabel("images, %")
                _legend(figure, [axes], page=True)
            found.append(figure)
        return found

    def _panel(self, axes: Axes, sources: str) -> None:
        targets = self.cdf["target"].unique(maintain_order=True).to_list()[:_MOST_LINES]
        for place, target in enumerate(targets):
            one = self.cdf.filter(sources=sources, target=target)
            if one.height:
                kind = relation(self.spec.models, sources.split("+") if sources else (), target)
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


def searches(rows: pl.LazyFrame, spec: Spec, title: str) -> Iterator[Searches]:
    """Yield the figure of every attack that searches for the minimal RMSD."""
    cdf = minimal_cdf(rows, spec)
    for (attack,), mine in cdf.partition_by("attack", as_dict=True, maintain_order=True).items():
        yield Searches(str(attack), f"{title}: smallest RMSD that succeeds, {attack}", mine, spec)


def destruction(rates: pl.DataFrame, attacks: Iterable[str], title: str, *, page: bool = False) -> Figure | None:
    """Return a figure of destruction rates by target, with one series for each of at most 16 attacks.

    The rate is defined by Kurakin et al. 2017; figure 5 of Wu et al. 2019 is similar. `rates` has the columns `attack`,
    `target` and `destruction` (0..1, or null). Return None if fewer than two rates are known.
    """
    known = rates.drop_nulls("destruction")
    if known.height < 2:
        return None
    targets = known["target"].unique(maintain_order=True).to_list()
    every = [attack for attack in dict.fromkeys(attacks) if attack in set(known["attack"])]
    drawn = every[:_MOST_LINES]
    wide = 1.6 + 0.62 * len(targets)
    title = f"{title}: images that a transform restores{_part_of(every)}"
    with _blank(1, title, wide, page=page) as (figure, (axes,)):
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
        _legend(figure, [axes], page=page)
    return figure


def _percent(axes: Axes) -> None:
    axes.set_ylim(-3, 103)


def _legend(figure: Figure, panels: Sequence[Axes], *, page: bool = False) -> None:
    """Draw one legend for all panels, because a panel may lack some lines.

    The legend is at the right of the panels. In a figure for the page, it is below the panel.
    """
    known: dict[str, Artist] = {}
    for axes in panels:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            known.setdefault(str(name), handle)
    if not known:
        return
    if page:
        across = max(1, min(len(known), _LEGEND_LETTERS // max(map(len, known))))
        lines = -(-len(known) // across)
        figure.set_figheight(_PAGE[1] + _LEGEND_LINE * (lines - 1))
        figure.legend(known.values(), known.keys(), loc="outside lower center", fontsize=8, ncols=across)
    else:
        figure.legend(known.values(), known.keys(), loc="outside right center", fontsize=8)
