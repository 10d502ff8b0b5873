"""The gallery of the report: the answers of a target that votes."""

from __future__ import annotations

import json

import yaml

from study.report.html.gallery import gallery
from study.report.html.report_data import read_report_data
from tests.conftest import TINY, rows

VOTING = yaml.safe_load(TINY) | {
    "images": {"sample": "foolbox", "size": 32, "keep": "all", "count": 2},
    "models": {
        "a": {"network": "timm:test_resnet", "weights": "random:1", "size": 32},
        # Three votes are too few for the test at this level: the target always abstains.
        "silent": {"model": "a", "transform": {"smoothing": {"draws": 3, "alpha": 0.001}}},
        "voting": {"model": "a", "transform": {"smoothing": {"draws": 3, "alpha": 0}}},
    },
    "attacks": {"fgsm": {}},
    "experiments": {"one": {"attacks": "fgsm", "sources": ["a"]}},
}


def test_a_target_that_abstains_gives_no_label(finished):
    run = finished(yaml.safe_dump(VOTING))
    made = gallery(read_report_data(str(run)))
    assert made is not None
    spec = read_report_data(str(run)).spec
    assert set(rows(run).filter(target="silent")["top1"]) == {-1}
    for card in made.cards:
        shown = {line[0].text: [cell.text for cell in line[1:]] for line in card.answers.rows}
        assert shown["silent°"] == ["abstains", "abstains", "yes"]
        (row,) = rows(run).filter(target="voting", image=card.image).iter_rows(named=True)
        clean, now, _ = shown["voting°"]
        assert clean == spec.labels.words(row["clean_top1"])[0]
        assert now == f"{spec.labels.words(row['top1'])[0]} ({100 * row['top5_prob'][0]:.0f} %)"
    assert spec.labels.words(-1)[0] not in json.dumps(made.choices)
