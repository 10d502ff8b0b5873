"""Destruction rates against a naive loop."""

from __future__ import annotations

import random

import polars as pl

from study.analysis.robustness import destruction_rates


def test_destruction_rates():
    draw = random.Random(1)
    rows = []
    for craft in ("one", "two"):
        for image in range(40):
            label = draw.randrange(3)
            rows += [
                    {
                        "sources": ["s"], "attack": craft, "goal": "untargeted", "seed": 0, "steps": 1, "budget": None,
                        "craft": craft, "image": str(image), "label": label, "target_label": None, "target": target,
                        "clean_top1": draw.choice([label, label, 9]), "top1": (best := draw.choice([label, 8])),
                        "top5": [best],
                        "names": None, "clean_names": None, "wanted_names": None,
                        "true_names": None, "sentence": None, "refused": None,
                    }
                    for target in ("plain", "jpeg", "other")
            ]  # fmt: skip
    lists = {name: pl.List(pl.String) for name in ("names", "clean_names", "wanted_names", "true_names")}
    lists |= {"sentence": pl.String, "refused": pl.Boolean}
    frame = pl.DataFrame(rows, schema_overrides={**lists, "budget": pl.Float64, "target_label": pl.Int32}).lazy()
    found = destruction_rates(frame, {"jpeg": "plain"})
    assert found["target"].to_list() == ["jpeg", "jpeg"]
    for one in found.iter_rows(named=True):
        mine = [row for row in rows if row["craft"] == one["attack"]]
        fooled = {
            row["image"]
            for row in mine
            if row["target"] == "plain" and row["clean_top1"] == row["label"] != row["top5"][0]
        }
        mended = [
            row["image"]
            for row in mine
            if row["target"] == "jpeg" and row["image"] in fooled and row["top5"][0] == row["label"]
        ]
        assert one["images"] == len(fooled) > 0
        assert one["destruction"] == len(mended) / len(fooled)
