"""The output of `study show`."""

from __future__ import annotations

import io
import re

import polars as pl
import pyarrow as pa
import yaml
from rich.console import Console

from study.analysis.rates import success_rates
from study.commands.show import print_run
from study.images.clean_accuracy import Right
from study.images.selection import Selection
from study.planning.relation import relation
from study.report.tables.matrices import print_matrices
from study.report.tables.short_names import legend, shortened
from study.results import scanning
from study.results.run_reader import RunData
from study.results.schema import SCHEMA
from study.spec.loading import resolve
from study.spec.yaml_document import parse


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


WIDE = ("resnet152", "resnet101", "resnet50", "vgg16", "googlenet")


def five_targets():
    """A run whose rows are made up: five models with long names, each single source and one ensemble of four."""
    spec = resolve(parse(yaml.safe_dump({
        "study": "wide", "images": {"sample": "foolbox", "keep": "all"}, "models": {name: {} for name in WIDE},
        "experiments": {
            "single": {"attacks": ["optimization", "mi"], "sources": "each"},
            "ensembles": {"attacks": ["mi"], "sources": "leave-one-out"},
        },
    }, sort_keys=False), "spec")).spec  # fmt: skip
    made = []
    for name, experiment in spec.experiments.items():
        for attack in experiment.attacks:
            for number, sources in enumerate(spec.source_sets(experiment)):
                for target in WIDE:
                    for image in range(3):
                        hit = (number + image + len(target)) % 2
                        made.append({
                            "craft": f"{name}.{attack}.{number}", "unit": f"{name}.{attack}.{number}.0",
                            "sources": list(sources), "attack": attack, "goal": "untargeted", "seed": 0,
                            "steps": spec.attacks[attack].steps, "budget": spec.attacks[attack].budget.levels[0],
                            "gradients": 10, "image": str(image), "label": 1, "target_label": None, "target": target,
                            "relation": relation(spec.models, sources, target), "clean_top1": 1,
                            "top1": 2 if hit else 1, "top5": [2 if hit else 1, 3, 4, 5, 6], "rmsd": 6.25,
                        })  # fmt: skip
    rows = pl.DataFrame(pa.Table.from_pylist(made, schema=SCHEMA)).lazy()
    clean = {name: Right(images=50, right=40) for name in WIDE}
    return RunData(spec, rows, Selection([], {}), clean)


def shown(finished, width):
    printed = io.StringIO()
    assert print_matrices(finished, Console(file=printed, width=width))
    return printed.getvalue()


def numbers(text):
    """The rates of each line of a matrix, in the order of the columns."""
    return [
        re.findall(r"(?<=\s)\d+[*°]?(?=\s)", line.split("6.25", 1)[1] + " ")
        for line in text.splitlines()
        if "6.25" in line
    ]


def test_five_targets_stay_one_table_at_80_columns():
    finished = five_targets()
    wide, narrow = shown(finished, 200), shown(finished, 80)
    assert all(len(line.rstrip()) <= 80 for line in narrow.splitlines() if "6.25" in line or " = " in line)
    assert narrow.count("single, untargeted") == narrow.count("ensembles, untargeted") == 1
    assert [len(one) for one in numbers(narrow)] == [5] * 15
    assert numbers(narrow) == numbers(wide)
    assert "resnet152 + resnet50" in wide
    assert " = " not in wide.partition("Untargeted success rate")[0]
    assert "A = resnet152, B = resnet101, C = resnet50, D = vgg16, E = googlenet" in narrow.replace("\n", " ")
    (heads,) = [line.split() for line in narrow.partition("ensembles, untargeted")[2].splitlines() if "RMSD" in line][
        :1
    ]
    assert heads[-5:] in (["A", "B", "C", "D", "E"], ["res152", "res101", "res50", "vgg16", "goo"])


def test_short_names():
    brief, letters = shortened(WIDE)
    assert list(brief.values()) == ["res152", "res101", "res50", "vgg16", "goo"]
    assert list(letters.values()) == list("ABCDE")
    assert legend(brief) == "res152 = resnet152, res101 = resnet101, res50 = resnet50, goo = googlenet"
    assert [list(one.values()) for one in shortened(["resnet50", "resnext50"])] == [["A", "B"]], "both would be res50"
    assert [list(one.values()) for one in shortened(["vgg16", "vgg19"])] == [["A", "B"]], "they are short"
    (many,) = list(shortened([f"a{number}" for number in range(30)]))
    assert many["a29"] == "30"
