"""Draw the figure at the top of README.md from a run of specs/small/readme.yaml: `python docs/site/figure.py RUN`.

It writes the numbers to docs/figures/*.csv, and draws docs/figures/transfer-*.svg from these files alone; without RUN,
from the files that are there. Each figure exists for light and dark pages, and for wide and narrow ones.
"""

from __future__ import annotations

import argparse
import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

import study
from study import analysis

FIGURES = Path(__file__).resolve().parent.parent / "figures"
EXPERIMENT, MATRIX = "figure", "mi+di"
NAMES = {"bim": "I-FGSM", "mi": "MI", "mi+di": "MI + DI"}
_DRAWS = 2000


@dataclass(frozen=True)
class Scheme:
    """The colours of a page; the background stays transparent."""

    name: str
    text: str
    faint: str
    low: str
    high: str
    on_high: str
    lines: tuple[str, ...]


SCHEMES = (
    Scheme("light", "#1f2328", "#c9d1d9", "#eef3fa", "#0b4f8a", "#ffffff", ("#6e7781", "#0072b2", "#c24a00")),
    Scheme("dark", "#e6edf3", "#3d444d", "#1c2633", "#6cb6ff", "#0d1117", ("#9198a1", "#56b4e9", "#f0a04b")),
)
_SHAPES = {"wide": (9.6, 4.1), "narrow": (4.6, 8.2)}


def numbers(run: str) -> Mapping[str, pl.DataFrame]:
    """The success rates of the figure: `matrix` of one attack, and the black-box means of all attacks by `steps`."""
    loaded = study.load(run)
    rows = loaded.scan()
    last = rows.filter(pl.col("attack") == MATRIX).filter(pl.col("steps") == pl.col("steps").max())
    matrix = analysis.success_rates(last, by=("sources", "target")).select(
        "sources", "target", "relation", "images", "success", "low", "high"
    )
    order = {name: place for place, name in enumerate(loaded.spec.models)}
    matrix = matrix.sort(pl.col("sources").replace_strict(order), pl.col("target").replace_strict(order))
    black = rows.filter(relation="black")
    curves = analysis.bootstrap_rates(black, by=("attack", "steps"), draws=_DRAWS)
    place = {name: at for at, name in enumerate(NAMES)}
    return {"matrix": matrix, "curves": curves.sort(pl.col("attack").replace_strict(place), "steps")}


def read() -> Mapping[str, pl.DataFrame]:
    """The numbers in docs/figures."""
    return {name: pl.read_csv(FIGURES / f"transfer-{name}.csv") for name in ("matrix", "curves")}


def drawn(found: Mapping[str, pl.DataFrame], scheme: Scheme, shape: str) -> str:
    """One figure as SVG."""
    style: Any = {
        "svg.hashsalt": "study", "svg.fonttype": "path", "font.size": 11, "text.color": scheme.text,
        "axes.labelcolor": scheme.text, "axes.edgecolor": scheme.faint, "xtick.color": scheme.text,
        "ytick.color": scheme.text, "axes.spines.top": False, "axes.spines.right": False,
        "figure.constrained_layout.use": True,
    }  # fmt: skip
    written = io.StringIO()
    with rc_context(style):
        figure = Figure(figsize=_SHAPES[shape])
        figure.patch.set_alpha(0)
        panels = figure.subplots(*((1, 2) if shape == "wide" else (2, 1)))
        _matrix(panels[0], found["matrix"], scheme)
        _curves(panels[1], found["curves"], scheme)
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines()) + "\n"


def _matrix(axes: Axes, cells: pl.DataFrame, scheme: Scheme) -> None:
    names = list(dict.fromkeys(cells["sources"]))
    shades = LinearSegmentedColormap.from_list("rates", [scheme.low, scheme.high])
    axes.imshow(
        [[100 * _rate(cells, source, target) for target in names] for source in names], cmap=shades, vmin=0, vmax=100
    )
    for (down, source), (across, target) in itertools.product(enumerate(names), enumerate(names)):
        rate = 100 * _rate(cells, source, target)
        axes.text(
            across, down, f"{rate:.0f}" + ("*" if source == target else ""), ha="center", va="center",
            color=scheme.on_high if rate > 55 else scheme.text, fontsize=12,
        )  # fmt: skip
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.set(xlabel="target", ylabel="attacked network (source)")
    axes.set_title(f"{NAMES[MATRIX]}: images that fool the target, %", fontsize=12)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _rate(cells: pl.DataFrame, source: str, target: str) -> float:
    return float(cells.filter(sources=source, target=target)["success"].item())


def _curves(axes: Axes, points: pl.DataFrame, scheme: Scheme) -> None:
    for name, colour, mark in zip(NAMES, scheme.lines, "osD", strict=True):
        mine = points.filter(attack=name)
        x, low, high = (mine[column].to_list() for column in ("steps", "low", "high"))
        axes.plot(x, _percent(mine["success"]), color=colour, marker=mark, ms=5, lw=2)
        axes.fill_between(x, _percent(low), _percent(high), color=colour, alpha=0.15, linewidth=0)
        end = (x[-1], 100 * mine["success"][-1])
        axes.annotate(NAMES[name], end, xytext=(7, 0), textcoords="offset points", va="center", color=colour)
    axes.set(xlim=(0.5, 12.6), ylim=(0, 100), xlabel="gradient steps", ylabel="images, %")
    axes.set_xticks([1, 2, 3, 5, 10])
    axes.grid(color=scheme.faint, lw=0.6)
    axes.set_axisbelow(True)
    axes.set_title("Black-box transfer, mean of 6 pairs", fontsize=12)


def _percent(rates: Sequence[float] | pl.Series) -> list[float]:
    return [100 * one for one in rates]


def main() -> None:
    """Write the numbers of RUN, if one is given, and draw."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("run", nargs="?", help="a run folder of specs/small/readme.yaml")
    run = options.parse_args().run
    FIGURES.mkdir(exist_ok=True)
    if run:
        for name, frame in numbers(run).items():
            frame.write_csv(FIGURES / f"transfer-{name}.csv")
    found = read()
    for scheme, shape in itertools.product(SCHEMES, _SHAPES):
        (FIGURES / f"transfer-{scheme.name}-{shape}.svg").write_text(drawn(found, scheme, shape), encoding="utf-8")


if __name__ == "__main__":
    main()
