"""Prints the table of all presets as Markdown, from a run of specs/small/presets.yaml.

Run: study launch specs/small/presets.yaml, then python benchmarks/presets.py runs/presets
"""

from __future__ import annotations

import argparse
from pathlib import Path

import polars as pl

from study.analysis.rates import success_rates
from study.planning.relation import MARKS
from study.results import scanning

WHOLE = ("sources", "attack", "goal", "steps", "target")


def table(run: Path, attacks: list[str] | None = None, sources: list[str] | None = None) -> list[str]:
    """Return the table as Markdown lines, with a row for every attack and source set.

    The rows are sorted by number of gradients, then by name. `attacks` and `sources` select rows; None selects all.
    """
    rows = scanning.scan(run)
    counted = rows.group_by(pl.col("sources").list.join("+"), "attack").agg(pl.max("gradients"), pl.mean("rmsd"))
    cells = success_rates(rows, by=WHOLE).join(counted.collect(), on=["sources", "attack"], suffix="_all")
    targets = list(dict.fromkeys(cells["target"].sort()))
    lines = [
        f"| attack | sources | gradients | images | RMSD | {' | '.join(targets)} |",
        "| --- | --- | ---: | ---: | ---: |" + " ---: |" * len(targets),
    ]
    grouped = cells.partition_by("sources", "attack", as_dict=True, maintain_order=True)
    for (source, attack), part in sorted(
        grouped.items(), key=lambda one: (one[1]["gradients"][0], one[0][1], one[0][0])
    ):
        if (attacks and attack not in attacks) or (sources and source not in sources):
            continue
        by = {row["target"]: row for row in part.to_dicts()}
        shown = [f"{100 * by[name]['success']:.0f}{MARKS.get(by[name]['relation'], '')}" for name in targets]
        first = part.to_dicts()[0]
        low, high = part["rmsd"].min(), part["rmsd"].max()
        moved = f"{low:.2f}" if high - low < 1e-6 else f"{low:.1f} to {high:.1f}"
        lines.append(
            f"| {attack} | {source.replace('+', ' + ')} | {first['gradients']} | {first['images']} | {moved} | "
            f"{' | '.join(shown)} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--attacks", nargs="*")
    parser.add_argument("--sources", nargs="*")
    chosen = parser.parse_args()
    print("\n".join(table(chosen.run, chosen.attacks, chosen.sources)))


if __name__ == "__main__":
    main()
