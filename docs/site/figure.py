"""Draw the figure at the top of README.md from a run of specs/small/authors-cost-cifar10.yaml: `python
docs/site/figure.py RUN`.

It writes the numbers to docs/figures/*.csv, and draws docs/figures/transfer-*.svg from these files alone; without RUN,
from the files that are there. Each figure exists for light and dark pages, and for wide and narrow ones.
"""

from __future__ import annotations

import argparse
import io
import itertools
from collections.abc import Mapping
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
SOURCE = "resnet20"
NAMES = {
    "bim": "I-FGSM", "mi": "MI", "ila": "ILA", "mi+ssa": "SSA + MI", "bsr": "BSR", "sia": "SIA", "gra": "GRA",
    "decowa": "DeCoWA", "pgn": "PGN",
}  # fmt: skip
_DRAWS = 2000
_BESIDE = {
    "pgn": (6, -12, "left"),
    "gra": (-6, 5, "right"),
    "bsr": (-7, -4, "right"),
    "sia": (-7, 4, "right"),
    "mi": (-6, 4, "right"),
}
"""Where a name stands beside its mark, if not at its right: offset in points, and alignment."""


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
_SHAPES = {"wide": (9.4, 4.4), "narrow": (4.6, 8.6)}


def numbers(run: str) -> Mapping[str, pl.DataFrame]:
    """The success rates of the figure: `matrix`, and `means` of black-box targets with the gradients of each attack."""
    loaded = study.load(run)
    rows = loaded.scan().filter(
        pl.col("sources").list.join("+") == SOURCE, pl.col("attack").is_in(list(NAMES)), goal="untargeted"
    )
    place = {name: at for at, name in enumerate(NAMES)}
    order = {name: at for at, name in enumerate(loaded.spec.models)}
    matrix = analysis.success_rates(rows, by=("attack", "target")).select(
        "attack", "target", "relation", "images", "success", "low", "high"
    )
    black = rows.filter(relation="black")
    cost = black.group_by("attack").agg(pl.col("gradients").max()).collect()
    means = analysis.bootstrap_rates(black, by=("attack",), draws=_DRAWS).join(cost, on="attack")
    return {
        "matrix": matrix.sort(pl.col("attack").replace_strict(place), pl.col("target").replace_strict(order)),
        "means": means.sort(pl.col("attack").replace_strict(place)),
    }


def read() -> Mapping[str, pl.DataFrame]:
    """The numbers in docs/figures."""
    return {name: pl.read_csv(FIGURES / f"transfer-{name}.csv") for name in ("matrix", "means")}


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
        _curve(panels[1], found["means"], scheme)
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines()) + "\n"


def _matrix(axes: Axes, cells: pl.DataFrame, scheme: Scheme) -> None:
    targets = list(dict.fromkeys(cells["target"]))
    rates = {
        (attack, target): 100 * rate for attack, target, rate in cells.select("attack", "target", "success").rows()
    }
    shades = LinearSegmentedColormap.from_list("rates", [scheme.low, scheme.high])
    axes.imshow(
        [[rates[attack, target] for target in targets] for attack in NAMES],
        cmap=shades,
        vmin=0,
        vmax=100,
        aspect="auto",
    )
    for (down, attack), (across, target) in itertools.product(enumerate(NAMES), enumerate(targets)):
        rate = rates[attack, target]
        axes.text(
            across, down, f"{rate:.0f}" + ("*" if target == SOURCE else ""), ha="center", va="center",
            color=scheme.on_high if rate > 55 else scheme.text, fontsize=12,
        )  # fmt: skip
    axes.set_xticks(range(len(targets)), targets)
    axes.set_yticks(range(len(NAMES)), list(NAMES.values()))
    axes.tick_params(length=0)
    axes.set_title(f"Images of {SOURCE} that fool each target, %", fontsize=12)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _curve(axes: Axes, means: pl.DataFrame, scheme: Scheme) -> None:
    for name, _, rate, low, high, cost in means.rows():
        ends = [[100 * (rate - low)], [100 * (high - rate)]]
        axes.errorbar(
            [cost], [100 * rate], yerr=ends, fmt="o", color=scheme.lines[1], ecolor=scheme.lines[0], ms=6, lw=1.2
        )
        x, y, side = _BESIDE.get(name, (7, 4, "left"))
        axes.annotate(
            NAMES[name], (cost, 100 * rate), xytext=(x, y), textcoords="offset points", ha=side, color=scheme.text
        )
    best = (
        means.sort("gradients").with_columns(pl.col("success").cum_max()).group_by("gradients").agg(pl.max("success"))
    )
    best = best.sort("gradients")
    axes.step(
        [*best["gradients"], 700], [100 * one for one in [*best["success"], best["success"][-1]]],
        where="post", color=scheme.lines[2], lw=2, zorder=1,
    )  # fmt: skip
    axes.text(14, 91, "best within a cost", color=scheme.lines[2])
    axes.set(xscale="log", xlim=(7, 700), ylim=(30, 100), xlabel="gradients per image", ylabel="images, %")
    axes.set_xticks([10, 20, 50, 100, 200, 400], ["10", "20", "50", "100", "200", "400"])
    axes.minorticks_off()
    axes.grid(color=scheme.faint, lw=0.6)
    axes.set_axisbelow(True)
    axes.set_title("Black-box transfer against cost, 95 % intervals", fontsize=12)


def main() -> None:
    """Write the numbers of RUN, if one is given, and draw."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("run", nargs="?", help="a run folder of specs/small/authors-cost-cifar10.yaml")
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
