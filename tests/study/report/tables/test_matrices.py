"""The output of `study show`."""

from __future__ import annotations

import io

from rich.console import Console

from study.analysis.rates import success_rates
from study.commands.show import print_run
from study.results import scanning


def test_show(tiny_run):
    printed = io.StringIO()
    print_run(tiny_run, Console(file=printed, width=100))
    text = printed.getvalue()
    for title in ("single, untargeted", "single, targeted", "ensembles, untargeted"):
        assert title in text
    rates = success_rates(scanning.scan(tiny_run), by=("sources", "attack", "goal", "target")).filter(
        sources="b+c", attack="mi"
    )
    cells = " ".join(
        f"{100 * one['success']:.0f}{'*' if one['relation'] == 'white' else ''}" for one in rates.to_dicts()
    )
    (line,) = [line for line in text.splitlines() if "b + c" in line and line.split()[0] == "mi"]
    assert line.split()[1:] == ["b", "+", "c", "6", f"{rates['rmsd'][0]:.2f}", *cells.split()]
    assert "white-box" in text
    assert "adversarial images that the target misclassifies" in text
