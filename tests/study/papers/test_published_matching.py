"""Published tables: every number read and given back, matched to what specs plan, found again in rows that have it."""

from __future__ import annotations

import csv
import fractions
import random

import polars as pl
import pytest
import yaml

from study.attacks.presets import keys_of
from study.attacks.recipe import Attack
from study.errors import StudyError
from study.papers import paper_comparison, published, registry
from study.papers.preset_agreement import PlannedPoint, differences
from study.papers.published_matching import match, planned
from study.results.schema import SCHEMA
from study.spec.loading import resolve
from study.spec.yaml_document import parse
from tests.conftest import TINY
from tests.papers import LIU, SGM, SMOOTHED, SPECS

NUMBERS = {"liu2017": 699, "smoothed2019": 203, "sgm2020": 425}


def spec_of(text: str):
    return resolve(parse(text, "spec")).spec


@pytest.fixture(scope="module")
def matched() -> dict[str, tuple]:
    """By paper, a spec and its match, for each of its specs."""
    return {
        paper: tuple((spec_of(text), match(published.load(paper), spec_of(text))) for text in texts)
        for paper, texts in SPECS.items()
    }


@pytest.mark.parametrize("paper", NUMBERS)
def test_every_number_survives_reading(paper):
    with (registry.FOLDER / f"{paper}.csv").open(newline="") as opened:
        written = list(csv.DictReader(opened))
    frame = published.load(paper)
    assert frame.height == len(written) == NUMBERS[paper]
    assert frame.schema == published.SCHEMA
    assert published.lines(frame) == written
    assert all(float(one["value"]) == value for one, value in zip(written, frame["value"], strict=True))


def test_the_files_are_the_shared_ones(shared):
    for paper in NUMBERS:
        with (shared / "published" / f"{paper}.csv").open(newline="") as opened:
            assert list(csv.DictReader(opened)) == published.lines(published.load(paper))


def test_every_number_of_a_papers_own_experiments_is_one_planned_cell(matched):
    for paper, specs in matched.items():
        reasons = [frame["reason"] for _, frame in specs]
        whole = pl.DataFrame({f"{at}": reason for at, reason in enumerate(reasons)})
        times = whole.select(pl.sum_horizontal(pl.all().is_null()).alias("times"))["times"]
        own = published.load(paper)["cited"].is_null()
        assert times.to_list() == own.cast(pl.Int64).to_list()
        for spec, frame in specs:
            plan = planned(spec)
            mine = frame.filter(pl.col("reason").is_null()).with_columns(
                pl.col("our_attack").alias("attack"), pl.col("our_sources").alias("sources"), pl.lit(1).alias("one")
            )
            keys = ["experiment", "attack", "sources", "goal", "target", "steps", "level", "top", "metric"]
            joined = mine.join(plan, on=keys, how="left", nulls_equal=True, suffix="_planned")
            assert joined.height == mine.height
            assert joined["seeds_planned"].null_count() == 0
            assert not mine.select("table", "kind", *keys).is_duplicated().any()
    cited = published.load("sgm2020").filter(pl.col("cited").is_not_null())
    assert cited["table"].unique().sort().to_list() == ["8", "9"]
    assert cited.height == 105


def test_names_of_models_are_those_of_the_catalogue_but_for_what_nobody_has():
    from study.models.catalogue import LEFT_OUT, SHORT_NAMES

    frame = published.load()
    names = {one for key in ("sources", "target") for text in frame[key] for one in text.split("+") if one}
    defended = {one for one in names if one.startswith("defence:")}
    assert names - set(SHORT_NAMES) - defended == set(LEFT_OUT) - {"lenet"}


REASONS = [
    (LIU, "large-rate", None, "17", "no experiment has `published: liu2017:17`"),
    (LIU, "single", {"targets": ["resnet50"]}, "1A", "'resnet152' is not a target of single"),
    (LIU, "single", {"sources": ["resnet50"]}, "1A", "single has no attack on resnet152"),
    (LIU, "single", {"attacks": ["fg", "fgs"]}, "1A", "single has no attack that the paper calls 'optimization'"),
    (LIU, "single", {"goal": ["targeted"]}, "1A", "single has no untargeted attacks"),
    (LIU, "noise", {"sources": "each"}, "11", "more than one cell fits: "),
    (SGM, "table3", {"targets": ["vgg19_bn"], "attacks": ["fgsm"]}, "3", "table3 has no attack that the paper calls"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "experiment", "changes", "table", "reason"), REASONS, ids=lambda one: str(one)[:12])
def test_reasons(text, experiment, changes, table, reason):
    data = yaml.safe_load(text)
    if changes is None:
        del data["experiments"][experiment]
    else:
        mine = {key: data["experiments"][experiment][key] for key in ("attacks", "sources")}
        data["experiments"][experiment] = mine | {"published": f"{data['study']}:{table}"} | changes
        if experiment == "noise":
            data["experiments"][experiment]["published"] = yaml.safe_load(text)["experiments"][experiment]["published"]
    frame = match(published.load(data["study"]), spec_of(yaml.safe_dump(data)))
    first = frame.filter(table=table).row(0, named=True)
    assert first["experiment"] is None
    assert first["reason"].startswith(reason)


def test_models_that_are_missing_and_parameters_that_differ():
    text = SMOOTHED.replace("fgsm: {epsilon: 15}", "fgsm: {epsilon: 16}").replace("alexnet: {}", "googlenet: {}")
    text = text.replace("[alexnet, resnet34, vgg16_bn]", "[googlenet, resnet34, vgg16_bn]")
    frame = match(published.load("smoothed2019"), spec_of(text))
    reasons = frame.filter(attack="fgsm", table="1")["reason"]
    assert set(reasons) == {"epsilon 15 in the paper, 16 here"}
    six = frame.filter(pl.col("sources").str.contains("alexnet"))
    assert set(six["reason"]) == {"the spec has no model 'alexnet'"}


def test_points_of_one_attack_are_told_apart():
    data = yaml.safe_load(SMOOTHED)
    data["attacks"]["fgsm"] = {"epsilon": [10, 15]}
    data["attacks"]["igsm"] = {"epsilon": 15, "step_size": 5, "steps": 9, "checkpoints": [3, 5]}
    frame = match(published.load("smoothed2019"), spec_of(yaml.safe_dump(data))).filter(table="1")
    assert frame["reason"].null_count() == 60
    assert set(frame.filter(attack="fgsm")["level"]) == {15.0}
    assert set(frame.filter(attack="igsm")["steps"]) == {5}


def recipe(preset: str, **changed) -> Attack:
    return Attack.model_validate(keys_of(preset, changed))


@pytest.mark.parametrize(
    ("params", "attack", "expected"),
    [
        ({"epsilon": 15}, recipe("igsm"), ["epsilon 15 in the paper, 16 here"]),
        ({"step_size": 1.6, "epsilon": 16}, recipe("mi"), []),
        ({"step_size": 2}, recipe("mi"), ["step_size 2 in the paper, 1.6 here"]),
        ({"m": 20, "sigma": 15, "mu": 1}, recipe("sg-igsm"), ["mu 1 in the paper, 0 here"]),
        ({"sigma": 25}, recipe("gaussian-noise"), []),
        ({"sigma": 25}, recipe("igsm"), ["sigma 25 in the paper, none here"]),
        ({"optimizer": "adam", "lambda": 0, "learning_rate": 4}, recipe("optimization"), []),
        ({"optimizer": "adam"}, recipe("fg"), ["optimizer adam in the paper, l2 here"]),
        ({"lambda": 0}, recipe("optimization-penalised"), ["lambda 0 in the paper, a penalty here"]),
        (
            {"ensemble_weights": "equal"},
            recipe("mi", weights={"a": 2}),
            ["ensemble_weights equal in the paper, unequal here"],
        ),
        ({"gamma": 0.5}, recipe("sgm"), ["gamma 0.5 in the paper, 0.2, 0.5 here"]),
        ({"gamma": 0.5}, recipe("igsm"), ["gamma 0.5 in the paper, none here"]),
        ({"depth": 3}, recipe("igsm"), ["depth 3 in the paper, but recipes have no such parameter"]),
    ],
    ids=lambda one: str(one)[:30],
)
def test_parameters(params, attack, expected):
    steps, level = attack.scored_points[-1]
    assert differences(params, PlannedPoint(attack, ("a", "b"), steps, level, frozenset("b"))) == expected


def rows_of(frame: pl.DataFrame, *, seeds: tuple[int, ...] | None = None) -> pl.DataFrame:
    """Rows in which cells come out at exactly the printed value: `value` percent of as few images as that takes."""
    cells = []
    for at, one in enumerate(frame.iter_rows(named=True)):
        share = fractions.Fraction(one["printed"]) / 100
        accuracy = one["metric"].endswith("accuracy")
        for seed in seeds or one["seeds"]:
            craft = (one["our_sources"], one["our_attack"], one["goal"], one["steps"], seed)
            cells.append(
                {
                    "craft": "/".join(map(str, craft)), "unit": f"{'/'.join(map(str, craft))}.{at}",
                    "sources": one["our_sources"].split("+"), "attack": one["our_attack"], "goal": one["goal"],
                    "seed": seed, "steps": one["steps"], "budget": one["level"], "target": one["target"],
                    "top": one["top"], "images": share.denominator,
                    "hits": share.denominator - share.numerator if accuracy else share.numerator,
                    "relation": "white" if one["target"] in one["our_sources"].split("+") else "black",
                }
            )  # fmt: skip
    whole = pl.DataFrame(cells).with_columns(pl.int_ranges("images").alias("image")).explode("image")
    targeted, top = pl.col("goal") == "targeted", pl.col("top")
    hit = pl.col("image") < pl.col("hits")
    # The label that decides stands last of those that count: a success in top-5 must be read from all five.
    decisive = pl.when(targeted).then(pl.when(hit).then(2).otherwise(9)).otherwise(pl.when(hit).then(9).otherwise(1))
    return whole.select(
        "craft", "unit", "sources", "attack", "goal", "seed", "steps", "target", "relation",
        pl.col("budget").cast(pl.Float64), pl.col("image").cast(pl.String),
        pl.lit(1, pl.Int32).alias("label"), pl.lit(1, pl.Int32).alias("clean_top1"),
        pl.when(targeted).then(pl.lit(2, pl.Int32)).alias("target_label"),
        pl.when(top == 1).then(decisive).otherwise(7).cast(pl.Int32).alias("top1"),
        pl.when(top == 1).then(pl.concat_list(decisive, 4, 5, 6, 8)).otherwise(pl.concat_list(7, 4, 5, 6, decisive))
        .cast(pl.List(pl.Int32)).alias("top5"),
        pl.lit(None, pl.List(pl.String)).alias("names"), pl.lit(None, pl.List(pl.String)).alias("clean_names"),
        pl.lit(None, pl.List(pl.String)).alias("wanted_names"), pl.lit(None, pl.List(pl.String)).alias("true_names"),
        pl.lit(None, pl.String).alias("sentence"), pl.lit(None, pl.Boolean).alias("refused"), pl.lit(1.0).alias("rmsd"),
    )  # fmt: skip


def test_rows_that_have_the_printed_numbers_differ_by_nothing(matched):
    """All numbers of the papers' own experiments that are rates, table by table: one craft has rows for many tables."""
    found = 0
    for paper, specs in matched.items():
        for spec, frame in specs:
            wanted = frame.filter(
                pl.col("reason").is_null(), pl.col("metric").str.starts_with("top"), pl.col("our_attack") != "none"
            ).with_columns(pl.lit([0]).alias("seeds"))  # each seed would have the same rows
            for (table,), one in wanted.group_by("table", maintain_order=True):
                compared = paper_comparison.compare(one, rows_of(one).lazy(), spec)
                assert compared["reason"].null_count() == one.height, (paper, table)
                assert compared["difference"].abs().max() == 0, (paper, table)
                for cell in compared.iter_rows(named=True):
                    decimals = len(cell["printed"].partition(".")[2])
                    assert f"{cell['ours']:.{decimals}f}" == cell["printed"]
                assert compared["within"].all()
                (told,) = paper_comparison.summary(compared).to_dicts()
                assert [told[key] for key in ("cells", "comparable", "within")] == [one.height] * 3
                assert told["off"] == 0
                assert told["rank"] is None or told["rank"] == pytest.approx(1)
                found += one.height
    # 45 same-mistake, 15 cosine and 10 clean numbers are no rates of attacked images; 105 are quoted.
    assert found == 1327 - 105 - 45 - 15 - 10


def test_seeds_intervals_ranks_and_what_is_not_finished(matched):
    ((_, frame),) = matched["sgm2020"]
    spec = spec_of(SGM)
    one = frame.filter(pl.col("table") == "3", pl.col("our_sources") == "densenet201")
    rows = rows_of(one.with_columns(pl.lit([0, 1]).alias("seeds")))
    flipped = rows.with_columns(
        pl.when((pl.col("seed") == 1) & (pl.col("image") == "0")).then(1).otherwise("top1").cast(pl.Int32).alias("top1")
    )
    compared = paper_comparison.compare(one, flipped.lazy(), spec)
    assert set(compared["reason"]) == {"not finished: 2 of 5 seeds"}
    first = compared.row(0, named=True)
    step = 100 / first["images"]
    assert first["ours"] == pytest.approx(first["value"] - step / 2)
    assert first["ours_std"] == pytest.approx(step / 2**0.5)
    share, count, z = first["ours"] / 100, first["images"], 1.959963984540054
    for end in (first["low"], first["high"]):
        # Wilson's ends are where the score test is just at the limit.
        assert abs(share - end / 100) == pytest.approx(z * (end / 100 * (1 - end / 100) / count) ** 0.5)
    assert paper_comparison.compare(one, flipped.lazy(), spec, 10_001)["reason"][0].startswith(
        f"not finished: {count} of 10001"
    )
    assert set(paper_comparison.compare(one, flipped.lazy().filter(False), spec)["reason"]) == {
        "not finished: no rows yet"
    }

    table = pl.DataFrame(
        {
            "paper": ["p"] * 6, "table": ["1"] * 5 + ["2"], "comparable": [True] * 4 + [False] * 2,
            "ours": [10.0, 20.0, 20.0, 5.0, None, None], "value": [12.0, 30.0, 15.0, 15.0, 0.0, 1.0],
            "difference": [-2.0, -10.0, 5.0, -10.0, None, None], "within": [True, False, True, False, None, None],
        }
    )  # fmt: skip
    first, second = paper_comparison.summary(table).to_dicts()
    # Ranks 2, 3.5, 3.5, 1 and 1, 4, 2.5, 2.5: Pearson's formula over them.
    assert first["rank"] == pytest.approx(2.25 / (4.5 * 4.5) ** 0.5)
    assert (first["off"], first["within"], first["intervals"]) == (6.75, 2, 4)
    assert (second["comparable"], second["off"], second["rank"]) == (0, None, None)


def test_clean_accuracy_and_what_is_not_computed(matched):
    ((spec, frame),) = matched["liu2017"]
    rows = rows_of(frame.filter(table="1A")).with_columns(
        pl.when(pl.col("image").cast(pl.Int64) < 3).then(5).otherwise(1).cast(pl.Int32).alias("clean_top1")
    )
    clean = frame.filter(table="7")
    whole = spec.model_copy(update={"images": spec.images.model_copy(update={"keep": "all"})})
    compared = paper_comparison.compare(clean, rows.lazy(), whole)
    first = compared.filter(metric="top1-accuracy").to_dicts()
    images = rows.group_by("target").agg(pl.col("image").n_unique())
    for one in first:
        count = images.filter(target=one["target"])["image"][0]
        assert (one["images"], one["reason"]) == (count, None)
        assert one["ours"] == pytest.approx(100 * (count - 3) / count)
    assert set(compared.filter(metric="top5-accuracy")["reason"]) == {"rows contain the clean top-1 label only"}
    assert "`images.keep`" in paper_comparison.compare(clean, rows.lazy(), spec)["reason"][0]
    others = paper_comparison.compare(frame.filter(pl.col("table").is_in(["9", "33"])), rows.lazy(), spec)
    assert set(others.filter(metric="cosine")["reason"]) <= {"no probe has computed this cosine yet"}


def test_same_mistake_is_counted_over_what_both_get_wrong(matched):
    """Table 9 from rows in which a loop counts it."""
    ((spec, frame),) = matched["liu2017"]
    generator = random.Random(0)
    cell = frame.filter(table="1A", sources="vgg16")
    count = 40
    made = rows_of(cell.with_columns(pl.lit("2.5").alias("printed")))
    said = [generator.choice([1, 1, 2, 3, 4]) for _ in range(made.height)]
    labels = pl.Series("top1", said, dtype=pl.Int32)
    made = made.with_columns(labels, pl.lit("u").alias("unit"))
    compared = paper_comparison.compare(frame.filter(table="9"), made.lazy(), spec)
    assert compared["reason"].null_count() == 15
    for one in compared.iter_rows(named=True):
        first, second = (made.filter(target=name).sort("image")["top1"].to_list() for name in one["target"].split("+"))
        wrong = [pair for pair in zip(first, second, strict=True) if 1 not in pair]
        assert one["ours"] == pytest.approx(100 * sum(a == b for a, b in wrong) / len(wrong))
        assert (one["of"], one["images"]) == (len(wrong), count)
        assert one["low"] <= one["ours"] + 1e-9


def test_a_measure_fills_in_what_is_no_rate(matched, monkeypatch):
    ((spec, frame),) = matched["liu2017"]
    cosine = frame.filter(table="33")
    theirs = lambda rows, cells: cells.select("paper", "row", ours=pl.col("value") + 0.5, images=100)  # noqa: E731
    monkeypatch.setitem(paper_comparison.MEASURES, "cosine", theirs)
    compared = paper_comparison.compare(
        cosine, pl.DataFrame(schema=pl.Schema(pl.DataFrame(SCHEMA.empty_table()).schema)).lazy(), spec
    )
    assert compared["difference"].to_list() == [0.5] * 15
    assert compared["within"].null_count() == 15


def test_weights():
    spec = spec_of(SGM)
    told = paper_comparison.weights("sgm2020", spec, ["resnet152", "inceptionv3_ens3", "inceptionresnetv2_ens3"])
    assert told["resnet152"] == "the paper's"
    assert told["inceptionv3_ens3"].startswith("other weights: timm:inception_v3.tf_adv_in1k")
    assert told["inceptionresnetv2_ens3"] == "the nearest weights in a zoo"
    assert paper_comparison.weights("liu2017", spec, ["resnet50"])["resnet50"].startswith(
        "other weights: torchvision:resnet50"
    )
    drawn = spec_of(SGM.replace("resnet152: {}", "resnet152: {network: 'torchvision:resnet152', weights: 'random:1'}"))
    assert "random:1 here" in paper_comparison.weights("sgm2020", drawn, ["resnet152"])["resnet152"]


def test_published_is_told_and_is_no_identity():
    plain = spec_of(TINY)
    text = TINY.replace(
        "goal: [untargeted, targeted]", "goal: [untargeted, targeted], published: [liu2017:1A, liu2017:8]"
    )
    marked = spec_of(text)
    assert marked.experiments["single"].published.tables == ("liu2017:1A", "liu2017:8")
    assert marked.identity() == plain.identity()
    assert spec_of(marked.text()) == marked
    mapped = spec_of(text.replace("[liu2017:1A, liu2017:8]", "{tables: liu2017:1A, attacks: {mi: optimization}}"))
    assert spec_of(mapped.text()) == mapped
    published_as = mapped.experiments["single"].published
    assert [published_as.called(one) for one in ("mi", "optimization", "fg")] == ["optimization", None, "fg"]


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ("lui2017:1A", ["there is no paper named 'lui2017'", "liu2017 (the nearest)", "line"]),
        ("liu2017:1C", ["no published numbers for a table '1C'", "liu2017:1A"]),
        ("liu2017", ["'liu2017' names no table of a paper", "liu2017:1A"]),
        ("[liu2017:1A, 3]", ["published"]),
        ("{tables: liu2017:1A, attacks: {mj: fg}}", ["no attack of this experiment named 'mj'", "mi (the nearest)"]),
        ("{tables: liu2017:1A, attacks: {mi: optimal}}", ["in the published tables", "optimization (the nearest)"]),
    ],
)  # fmt: skip
def test_bad_names(given, parts):
    with pytest.raises(StudyError) as error:
        spec_of(TINY.replace("goal: [untargeted, targeted]", f"goal: [untargeted, targeted], published: {given}"))
    for part in parts:
        assert part in str(error.value)


def test_files_that_are_not_there(monkeypatch, tmp_path):
    monkeypatch.setattr(registry, "FOLDER", tmp_path)
    registry.rows.cache_clear()
    try:
        with pytest.raises(StudyError, match="cannot be read"):
            published.load("liu2017")
        (tmp_path / "liu2017.csv").write_text("a,b\n1,2\n")
        with pytest.raises(StudyError, match="columns"):
            published.load("liu2017")
        line = "liu2017,1A,x,fg,untargeted,a,b,top1-accuracy,many,,,,"
        (tmp_path / "liu2017.csv").write_text(f"{','.join(registry.COLUMNS)}\n{line}\n")
        with pytest.raises(StudyError, match="line 2"):
            published.load("liu2017")
    finally:
        registry.rows.cache_clear()
    with pytest.raises(StudyError, match="liu2017 \\(the nearest\\)"):
        published.load("liu2018")
