"""Draws the figures of geometry probes with matplotlib, as SVG, PNG and PDF.

People with colour blindness can distinguish the colours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from study.errors import StudyError
from study.geometry.analysis import grid_of, mean_cosines
from study.geometry.spec import Probe
from study.images.labels import LabelSet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_Figures = Iterator[tuple[str, "Figure"]]
"""An iterator over pairs of a name, which becomes part of the file name, and a figure."""

TRUE, OTHERS = "#d9d9d9", "#4d4d4d"
"""The colours of the true label (light grey) and of labels that have no own colour (dark grey)."""

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#7b4fa3")
"""The colours of all other labels and of models: those of Okabe and Ito (2008) and a violet."""

_DASHES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")
_MOST_ACROSS = 5
_LONGEST = 26
_NAMED = 4
"""The number of logits in a panel that have their own colour and name. Lines of further logits are grey."""
_UNDATED: Any = {"svg": {"Date": None}, "png": {"Software": None}, "pdf": {"CreationDate": None, "Producer": None}}
"""The metadata of files, by file format. They contain no dates, so that equal rows give equal files."""


def write(folder: Path, name: str, probe: Probe, rows: pl.DataFrame, labels: LabelSet) -> list[Path]:
    """Write all figures of one probe's `rows` into `folder`, and return the paths of the files.

    `name`: the start of every file name. Raises StudyError if `folder` cannot be written.
    """
    import matplotlib as mpl

    # With a fixed salt and without dates, equal rows give equal files.
    mpl.rcParams.update(
        {
            "svg.hashsalt": "study",
            "pdf.fonttype": 42,
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    )
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for part, figure in _DRAWN[probe.probe](probe, rows, labels):
            # Lay out once for all formats, because layout takes longer than drawing.
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
            for extension in _UNDATED:
                path = folder / f"{_file(name, part)}.{extension}"
                figure.savefig(path, dpi=160, metadata=_UNDATED[extension])
                written.append(path)
    except OSError as error:
        raise StudyError(f"{folder} cannot be written: {error.strerror}", where="--figures") from None
    return written


def regions(probe: Probe, rows: pl.DataFrame, labels: LabelSet) -> _Figures:
    """Yield two figures for each image of a regions probe, as in figures 4 and 5 of Liu et al. 2017.

    The first figure has a panel for each model with the predicted labels. A label has the same colour in all panels.
    The second figure has a panel for the true label and, if the probe is targeted, one for the target label. Each panel
    shows the border of this label for all models.
    """
    for (image,), part in rows.group_by("image", maintain_order=True):
        yield str(image), _planes(probe, part, labels)
        yield f"{image}-boundaries", _boundaries(probe, part, labels)


def _planes(probe: Probe, rows: pl.DataFrame, labels: LabelSet) -> Figure:
    from matplotlib.collections import LineCollection
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    models = rows["model"].unique(maintain_order=True).to_list()
    true, target = rows["label"][0], rows["target_label"][0]
    counts = rows.filter(pl.col("top1") != true)["top1"].value_counts(sort=True, name="points")
    # Among equally frequent labels, the lower label comes first.
    frequent = counts.sort("points", "top1", descending=[True, False])["top1"].to_list()
    if probe.targeted and target in frequent:
        frequent = [target, *(one for one in frequent if one != target)]
    named = frequent[: len(COLOURS)]
    position = {true: 0} | {label: index for index, label in enumerate(named, 1)}
    rest = len(named) + 1
    colours = ListedColormap([TRUE, *COLOURS[: len(named)], OTHERS])
    figure, panels = _panels(len(models), size=2.6, extra=1.9)
    for model, panel in zip(models, panels, strict=True):
        grid, axis = grid_of(rows.filter(model=model))
        shown = np.vectorize(lambda label: position.get(int(label), rest), otypes=[int])(grid)
        edge = axis[-1] + (axis[1] - axis[0]) / 2
        panel.imshow(
            shown, cmap=colours, vmin=-0.5, vmax=rest + 0.5, origin="lower", interpolation="nearest",
            extent=(-edge, edge, -edge, edge),
        )  # fmt: skip
        panel.add_collection(LineCollection(_borders(grid, axis), colors="white", linewidths=0.5))
        panel.plot(0, 0, marker="+", color="black", markersize=8)
        panel.set_title(model)
        panel.set_xlabel(_axis(probe, 0))
    for panel in panels[:: min(len(models), _MOST_ACROSS)]:
        panel.set_ylabel(_axis(probe, 1))
    patches = [Patch(color=TRUE, label=f"{_name(labels, true)} (true)")]
    for colour, label in zip(COLOURS, named, strict=False):
        aim = " (target)" if probe.targeted and label == target else ""
        patches.append(Patch(color=colour, label=_name(labels, label) + aim))
    if len(frequent) > len(named):
        patches.append(Patch(color=OTHERS, label=f"other labels: {len(frequent) - len(named)}"))
    figure.legend(handles=patches, loc="outside right center", frameon=False)
    figure.suptitle(rows["image"][0])
    return figure


def _borders(grid: NDArray[np.int32], axis: NDArray[np.float64]) -> list[list[tuple[float, float]]]:
    """Return the line segments between adjacent points with different labels. Each has two end points (u, v).

    The lines also separate two regions with different labels that are both dark grey.
    """
    half = (axis[1] - axis[0]) / 2
    upright = [
        [(axis[column] + half, axis[row] - half), (axis[column] + half, axis[row] + half)]
        for row, column in np.argwhere(grid[:, 1:] != grid[:, :-1])
    ]
    level = [
        [(axis[column] - half, axis[row] + half), (axis[column] + half, axis[row] + half)]
        for row, column in np.argwhere(grid[1:] != grid[:-1])
    ]
    return upright + level


def _boundaries(probe: Probe, rows: pl.DataFrame, labels: LabelSet) -> Figure:
    from matplotlib.lines import Line2D

    models = rows["model"].unique(maintain_order=True).to_list()
    wanted = [(rows["label"][0], "true")] + ([(rows["target_label"][0], "target")] if probe.targeted else [])
    figure, panels = _panels(len(wanted), size=3.6, extra=1.4)
    for (label, what), panel in zip(wanted, panels, strict=True):
        for index, model in enumerate(models):
            grid, axis = grid_of(rows.filter(model=model))
            inside = (grid == label).astype(float)
            if 0 < inside.mean() < 1:
                style = _DASHES[index // len(COLOURS) % len(_DASHES)]
                colour = COLOURS[index % len(COLOURS)]
                panel.contour(axis, axis, inside, levels=[0.5], colors=[colour], linestyles=[style], linewidths=1.5)
        panel.plot(0, 0, marker="+", color="black", markersize=8)
        panel.set_aspect("equal")
        panel.set_title(f"{_name(labels, label)} ({what})")
        panel.set_xlabel(_axis(probe, 0))
    panels[0].set_ylabel(_axis(probe, 1))
    handles = [
        Line2D([], [], color=COLOURS[index % len(COLOURS)], linestyle=_DASHES[index // len(COLOURS) % len(_DASHES)],
               label=model) for index, model in enumerate(models)
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside right center", frameon=False)
    figure.suptitle(rows["image"][0])
    return figure


def cosines(probe: Probe, rows: pl.DataFrame, labels: LabelSet) -> _Figures:
    """Yield the figures of a gradient-cosine probe.

    The first is the matrix of mean cosines between plain gradients. If the probe has several numbers of copies or
    several sigmas, further figures show the mean cosine over them.
    """
    means = mean_cosines(rows)
    yield "matrix", _matrix(means.filter(pl.col("copies").is_null()))
    for part, along, other in (("copies", "copies", "sigma"), ("sigma", "sigma", "copies")):
        smoothed = means.filter(pl.col("copies").is_not_null())
        if smoothed[along].n_unique() > 1:
            yield part, _curves(means, along, other, probe)


def _matrix(means: pl.DataFrame) -> Figure:
    models = means["first"].unique(maintain_order=True).to_list()
    values = {(first, second): value for first, second, value in means.select("first", "second", "cosine").iter_rows()}
    grid = np.array([[values[one, other] for other in models] for one in models], dtype=float)
    side = 1.6 + 0.75 * len(models)
    figure = _figure((side + 0.8, side))
    panel = figure.subplots()
    image = panel.imshow(grid, cmap="RdBu_r", vmin=-1, vmax=1)
    for (row, column), value in np.ndenumerate(grid):
        colour = "white" if abs(value) > 0.6 else "black"
        panel.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour)
    panel.set_xticks(range(len(models)), models, rotation=45, ha="right")
    panel.set_yticks(range(len(models)), models)
    panel.spines[:].set_visible(False)
    figure.colorbar(image, ax=panel, shrink=0.8, label="mean cosine of two gradients")
    return figure


def _curves(means: pl.DataFrame, along: str, other: str, probe: Probe) -> Figure:
    """Return a figure that draws mean cosines against `along`. Each model has a panel, as the first model of its pairs.

    `along` and `other` are `copies` and `sigma`, or the reverse. A panel has a line for each second model and each of
    the first four values of `other`. A thin line for each second model shows the cosine without smoothing.
    """
    models = means["first"].unique(maintain_order=True).to_list()
    smoothed = means.filter(pl.col("copies").is_not_null())
    plain = {(first, second): value for first, second, value in means.filter(pl.col("copies").is_null())
             .select("first", "second", "cosine").iter_rows()}  # fmt: skip
    figure, panels = _panels(len(models), size=2.9, extra=1.2, share=True)
    for first, panel in zip(models, panels, strict=True):
        for index, second in enumerate(one for one in models if one != first):
            colour = COLOURS[index % len(COLOURS)]
            for dash, value in zip(_DASHES, smoothed[other].unique(maintain_order=True), strict=False):
                line = smoothed.filter(first=first, second=second).filter(pl.col(other) == value).sort(along)
                label = f"{second}, {other} {value:g}"
                panel.plot(line[along], line["cosine"], dash, color=colour, marker="o", markersize=3, label=label)
            panel.axhline(plain[first, second], color=colour, linewidth=0.8, alpha=0.6)
        panel.set_title(f"{first}, smoothed")
        panel.set_xlabel(along if along == "copies" else "sigma (pixel values)")
        panel.set_xticks(smoothed[along].unique().sort().to_list())
        panel.legend(frameon=False, fontsize=7, handlelength=3.5)
    kind = "smoothed gradients of both" if probe.smoothing is not None and probe.smoothing.of == "both" else "gradients"
    panels[0].set_ylabel(f"mean cosine of {kind}")
    figure.supxlabel("thin lines: without smoothing", fontsize=8)
    return figure


def linearity(probe: Probe, rows: pl.DataFrame, labels: LabelSet) -> _Figures:
    """Yield a figure for each image of a linearity probe, with a panel for each model.

    A panel shows the logits over the distance from the image. The line of the true label is thick and black.
    """
    for (image,), part in rows.group_by("image", maintain_order=True):
        yield str(image), _lines(probe, part, labels)


def _lines(probe: Probe, rows: pl.DataFrame, labels: LabelSet) -> Figure:
    models = rows["model"].unique(maintain_order=True).to_list()
    true = rows["label"][0]
    figure, panels = _panels(len(models), size=3.0, extra=0.4, height=3.4, legend=1.1)
    for model, panel in zip(models, panels, strict=True):
        mine = rows.filter(model=model).sort("rank", "distance")
        others = 0
        for (shown, rank), line in mine.group_by("shown", "rank", maintain_order=True):
            if shown == true:
                panel.plot(line["distance"], line["logit"], color="black", linewidth=2.2, zorder=3,
                           label=f"{_name(labels, true)} (true)")  # fmt: skip
                continue
            if others < _NAMED:
                named = f"{_name(labels, int(str(shown)))} (rank {rank})"
                panel.plot(line["distance"], line["logit"], color=COLOURS[others], linewidth=1.1, label=named)
            else:
                panel.plot(line["distance"], line["logit"], color="#b3b3b3", linewidth=0.8)
            others += 1
        panel.set_title(model)
        panel.set_xlabel(_axis(probe, 0))
        panel.legend(frameon=False, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.24))
    panels[0].set_ylabel("logit")
    figure.suptitle(rows["image"][0])
    return figure


def intervals(probe: Probe, rows: pl.DataFrame, labels: LabelSet) -> _Figures:
    """Yield the figure of an intervals probe, with a panel for each model and a bar for each image.

    The bar is light grey where the prediction is correct, and blue where it is wrong.
    """
    models = rows["model"].unique(maintain_order=True).to_list()
    images = rows["image"].unique().sort(descending=True).to_list()
    height = 0.9 + max(2, len(images)) * 0.24
    figure, panels = _panels(len(models), size=2.9, extra=1.0, height=height, share=True)
    for model, panel in zip(models, panels, strict=True):
        for row, image in enumerate(images):
            line = rows.filter(model=model, image=image).sort("distance")
            distances, wrong = line["distance"].to_numpy(), (line["top1"] != line["label"]).to_numpy()
            by = distances[1] - distances[0]
            for dark, colour in ((False, TRUE), (True, COLOURS[0])):
                bars = [(float(at - by / 2), float(by)) for at in distances[wrong == dark]]
                panel.broken_barh(bars, (row - 0.4, 0.8), color=colour, linewidth=0)
        panel.set_title(model)
        panel.set_xlabel(_axis(probe, 0))
        panel.set_yticks(range(len(images)), images, fontsize=7)
    figure.supxlabel("light: the true label; blue: another label", fontsize=8)
    yield "lines", figure


_Drawn = Callable[[Probe, pl.DataFrame, LabelSet], "_Figures"]
_DRAWN: Mapping[str, _Drawn] = {
    "gradient-cosine": cosines,
    "regions": regions,
    "linearity": linearity,
    "intervals": intervals,
}


def _panels(
    count: int, *, size: float, extra: float, height: float | None = None, share: bool = False,
    legend: float = 0.0,
) -> tuple[Figure, Sequence[Axes]]:  # fmt: skip
    """Return a figure and its `count` panels. A row has at most `_MOST_ACROSS` panels.

    Sizes are in inches. `size` is the width of a panel, and also its height if `height` is None. `extra` is further
    width of the figure, and `legend` is further height of each row. With `share`, all panels have the same y axis.
    """
    across = min(count, _MOST_ACROSS)
    down = -(-count // across)
    shape = (across * size + extra, down * ((height or size) + legend) + 0.5)
    figure = _figure(shape)
    panels = figure.subplots(down, across, squeeze=False, sharey=share)
    flat = list(panels.flat)
    for panel in flat[count:]:
        panel.set_visible(False)
    return figure, flat[:count]


def _figure(inches: tuple[float, float]) -> Figure:
    # Do not use pyplot: it keeps every figure in memory, and may need a display.
    from matplotlib.figure import Figure

    return Figure(figsize=inches, layout="constrained")


def _axis(probe: Probe, which: int) -> str:
    sign = "sign of the " if probe.step == "sign" else ""
    return f"{sign}{probe.directions[which].title}\n(RMSD, pixel values)"


def _name(labels: LabelSet, label: int) -> str:
    word = labels.words(label)[0]
    return word if len(word) <= _LONGEST else word[: _LONGEST - 1] + "…"


def _file(name: str, part: str) -> str:
    safe = "".join(one if one.isalnum() or one in "._-" else "-" for one in part)
    return f"{name}-{safe}"
