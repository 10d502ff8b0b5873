"""Findings: every kind of check on rows of which the truth is known; the tests over images against scipy and loops."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import polars as pl
import pytest
import yaml
from scipy import stats

from study.analysis import bootstrap, significance
from study.errors import StudyError
from study.papers.finding_readings import rounded
from study.papers.findings import CELLS, FINDINGS, evaluate
from study.spec.loading import resolve
from study.spec.yaml_document import parse

SPEC = """
study: claims
images: {sample: foolbox, size: 48, keep: all}
models:
  a: {network: "timm:test_resnet", weights: "random:1", size: 48}
  b: {network: "timm:test_efficientnet", weights: "random:2", size: 48}
  c: {network: "timm:test_vit", weights: "random:3", size: 48}
  blurred: {model: b, transform: {blur: 1}}
attacks:
  igsm: {}
  mi: {}
  sgm-1.0: {preset: sgm, skip_gradient: {gamma: 1.0}}
  sgm-0.5: {preset: sgm, skip_gradient: {gamma: 0.5}}
  sgm-0.2: {preset: sgm, skip_gradient: {gamma: 0.2}}
  walk: {preset: igsm, steps: 30, checkpoints: [10, 20]}
  fg-minimal: {budget: {minimal: {from: 1, to: 60, by: 1}}}
  fgs-minimal: {budget: {minimal: {from: 1, to: 60, by: 1}}}
experiments:
  single: {attacks: [igsm, mi], sources: {each: [a, b, c]}, targets: [a, b, c]}
  seeded: {attacks: [mi], sources: [a], targets: [c], goal: targeted, seeds: [0, 1]}
  gamma: {attacks: [sgm-1.0, sgm-0.5, sgm-0.2], sources: [a], targets: [b, c]}
  walk: {attacks: [walk], sources: [a], targets: [b]}
  minimal: {attacks: [fg-minimal, fgs-minimal], sources: [a], targets: [b]}
  files: {attacks: [igsm, mi], sources: [a], targets: [b, blurred]}
"""

IMAGES = 60
SEARCHED = {"rmsd": {"less": {"attacks": "fg-minimal"}, "than": {"attacks": "fgs-minimal"}}}


def spec_with(**checks):
    findings = {
        name.replace("_", "-"): {"claim": "so it is", "source": "section 1", "check": check}
        for name, check in checks.items()
    }
    return resolve(parse(yaml.safe_dump(yaml.safe_load(SPEC) | {"findings": findings}), "spec")).spec


def shown(source, attack, target, hits, *, goal="untargeted", seed=0, steps=None, rmsd=None, gradients=10, budget=16.0):
    """Rows of one craft against one target; `hits` (N,) are its successes."""
    steps = {"walk": 30, "fg-minimal": 1, "fgs-minimal": 1}.get(attack, 10) if steps is None else steps
    count = len(hits)
    return pl.DataFrame(
        {
            "craft": f"{source}.{attack}.{goal}.{seed}",
            "unit": f"{source}.{attack}.{goal}.{seed}.0",
            "sources": [[source]] * count,
            "attack": attack,
            "goal": goal,
            "seed": seed,
            "steps": steps,
            "budget": budget,
            "gradients": gradients,
            "image": [f"{number:03d}" for number in range(count)],
            "label": 1,
            "target_label": 2 if goal == "targeted" else None,
            "target": target,
            "relation": "white" if source == target else "black",
            "clean_top1": 1,
            "top1": [2 if hit else 1 for hit in hits],
            "top5": [[2 if hit else 1, 3, 4, 5, 6] for hit in hits],
            "rmsd": [6.0] * count if rmsd is None else rmsd,
        },
        schema_overrides={"steps": pl.Int32, "gradients": pl.Int32, "target_label": pl.Int32, "seed": pl.Int64},
    )


def first(count, of=IMAGES):
    return [number < count for number in range(of)]


def transfers(rates, *, images=IMAGES, **options):
    """Rows by (source, attack, target): the first images succeed, as many as is said."""
    return pl.concat([shown(*cell, first(hits, images), **options) for cell, hits in rates.items()])


def everywhere(igsm, mi, images=IMAGES, **options):
    pairs = itertools.product("abc", "abc")
    return transfers(
        {(one, attack, other): hits for one, other in pairs for attack, hits in (("igsm", igsm), ("mi", mi))},
        images=images,
        **options,
    )


def verdict(rows, spec, **options):
    found = evaluate(rows.lazy(), spec, **options)
    assert found.schema == FINDINGS
    return found.row(0, named=True)


BETTER = {
    "compare": {
        "better": {"experiment": "single", "attacks": "mi"},
        "than": {"attacks": "igsm", "experiment": "single"},
    }
}


@pytest.mark.parametrize(
    ("igsm", "mi", "by", "said"),
    [
        (10, 50, 0.0, "replicated"),
        (50, 10, 0.0, "not replicated"),
        (30, 32, 0.0, "undecided"),
        (10, 50, 0.3, "replicated"),
        (10, 20, 0.5, "not replicated"),
        (10, 40, 0.5, "undecided"),
    ],
)
def test_compare(igsm, mi, by, said):
    spec = spec_with(claim={"compare": BETTER["compare"] | {"by": by}})
    found = verdict(everywhere(igsm, mi), spec)
    assert found["verdict"] == said, found
    assert found["effect"] == pytest.approx((mi - igsm) / IMAGES)
    assert len(found["cells"]) == 6, "black-box cells alone"
    assert found["low"] <= found["effect"] <= found["high"]


def test_compare_needs_every_cell_or_the_average_or_one():
    rates = {(one, attack, other): 20 for one in "abc" for other in "abc" for attack in ("igsm", "mi")}
    rates |= {("a", "mi", other): 45 for other in "bc"}
    rows = transfers(rates)
    for holds, said in (("each", "undecided"), ("average", "replicated"), ("some", "replicated")):
        assert verdict(rows, spec_with(claim={"compare": BETTER["compare"] | {"holds": holds}}))["verdict"] == said
    worse = transfers(rates | {("b", "mi", "a"): 1})
    found = verdict(worse, spec_with(claim=BETTER))
    assert found["verdict"] == "not replicated"
    assert "b -> a" in found["reason"]


def test_few_images_decide_nothing_even_where_all_agree():
    found = verdict(everywhere(0, 4, images=4), spec_with(claim=BETTER))
    assert found["verdict"] == "undecided"
    assert "p is" in found["reason"]


def test_every_cell_is_tested_at_the_nominal_level_and_one_of_many_after_holms_correction():
    """All six cells are better by seven images that only MI fools: p = 2 / 2^7 in each, and 6 * that after Holm."""
    rows = everywhere(20, 27)
    found = verdict(rows, spec_with(claim=BETTER))
    for one in found["cells"]:
        assert one["p"] == pytest.approx(2 / 2**7)
        assert one["holm"] == pytest.approx(min(1, 6 * 2 / 2**7))
    assert (found["verdict"], found["p"]) == ("replicated", pytest.approx(2 / 2**7))
    assert found["reason"] == "6 of 6 cells support the claim, 0 contradict it"
    some = verdict(rows, spec_with(claim={"compare": BETTER["compare"] | {"holds": "some"}}))
    assert (some["verdict"], some["p"]) == ("undecided", pytest.approx(6 * 2 / 2**7))


def test_a_cell_that_fails_is_named_only_after_holms_correction():
    """Six images more for IGSM in one cell: p 0.031, and 0.19 among six; twelve: p 0.0005, and 0.003."""
    rates = {(one, attack, other): {"igsm": 20, "mi": 40}[attack]
             for one in "abc" for other in "abc" for attack in ("igsm", "mi")}  # fmt: skip
    for fewer, said in ((6, "undecided"), (12, "not replicated")):
        found = verdict(transfers(rates | {("b", "mi", "a"): 20 - fewer}), spec_with(claim=BETTER))
        assert found["verdict"] == found["each"]["verdict"] == said
        assert "5 of 6 cells support the claim" in found["reason"]
        assert "b -> a" in found["reason"]
        assert found["each"]["cell"] == "b -> a"
        assert found["each"]["effect"] == pytest.approx(-fewer / IMAGES)
        assert found["average"]["verdict"] == "replicated"
        assert found["average"]["effect"] == pytest.approx((5 * 20 - fewer) / 6 / IMAGES)
        assert (found["effect"], found["p"]) == (found["each"]["effect"], found["each"]["p"])
    assert found["p"] == pytest.approx(6 * 2 / 2**12)


def test_a_claim_about_some_cell_fails_where_every_cell_fails():
    some = spec_with(claim={"compare": BETTER["compare"] | {"holds": "some"}})
    found = verdict(everywhere(27, 20), some)
    assert (found["verdict"], found["p"]) == ("not replicated", pytest.approx(2 / 2**7))


def test_equal_gradients():
    spec = spec_with(claim={"compare": BETTER["compare"] | {"equal": "gradients"}})
    assert verdict(everywhere(10, 50), spec)["verdict"] == "replicated"
    half = everywhere(10, 50).with_columns(
        pl.when(pl.col("attack") == "mi").then(200).otherwise("gradients").cast(pl.Int32).alias("gradients")
    )
    found = verdict(half, spec)
    assert found["verdict"] == "undecided"
    assert "gradients per image differ: 200 and 10" in found["reason"]


def test_missing_rows_are_named_and_decide_nothing():
    spec = spec_with(claim=BETTER)
    rows = everywhere(10, 50)
    gone = rows.filter(~((pl.col("attack") == "mi") & (pl.col("target") == "c")))
    found = verdict(gone, spec)
    assert found["verdict"] == "undecided"
    assert "mi on a against c" in found["reason"]
    assert verdict(rows, spec, images=IMAGES + 1)["verdict"] == "undecided"
    assert verdict(rows.clear(), spec)["verdict"] == "undecided"


@pytest.mark.parametrize(
    ("hits", "check", "said"),
    [
        (1, {"below": 0.2}, "replicated"),
        (40, {"below": 0.2}, "not replicated"),
        (10, {"below": 0.2}, "undecided"),
        (55, {"above": 0.5}, "replicated"),
        (5, {"above": 0.5}, "not replicated"),
        (33, {"above": 0.5}, "undecided"),
        (0, {"below": 0.1}, "replicated"),
    ],
)
def test_rate(hits, check, said):
    spec = spec_with(claim={"rate": {"of": {"experiment": "single", "attacks": "igsm", "sources": ["a"]}, **check}})
    found = verdict(everywhere(hits, 60), spec)
    assert found["verdict"] == said, found
    low, high = stats.binomtest(hits, IMAGES).proportion_ci(method="wilson")
    assert [(one["low"], one["high"]) for one in found["cells"]] == [pytest.approx((low, high))] * 2


def test_seeds_of_an_image_are_one_image():
    rows = pl.concat([shown("a", "mi", "c", first(20), goal="targeted", seed=seed) for seed in (0, 1)])
    found = verdict(rows, spec_with(claim={"rate": {"of": {"experiment": "seeded"}, "below": 0.5}}))
    assert found["images"] == IMAGES
    assert found["effect"] == pytest.approx(1 / 3)
    one = verdict(rows.filter(seed=0), spec_with(claim={"rate": {"of": {"experiment": "seeded"}, "below": 0.5}}))
    assert one["verdict"] == "undecided"
    assert "rows are missing" in one["reason"]


def test_top5_and_goal():
    rows = shown("a", "mi", "c", first(30), goal="targeted").with_columns(
        pl.Series("top1", [7] * IMAGES), pl.Series("top5", [[7, 2, 3, 4, 5]] * 40 + [[7, 3, 4, 5, 6]] * 20)
    )
    rows = pl.concat([rows, rows.with_columns(seed=pl.lit(1, pl.Int64))])
    both = spec_with(
        one={"rate": {"of": {"goal": "targeted"}, "below": 0.1}},
        five={"rate": {"of": {"goal": "targeted"}, "above": 0.5, "top": 5}},
    )
    assert evaluate(rows.lazy(), both)["verdict"].to_list() == ["replicated", "replicated"]


@pytest.mark.parametrize(("less", "said"), [(5.0, "replicated"), (-5.0, "not replicated"), (0.05, "undecided")])
def test_rmsd(less, said):
    draw = np.random.default_rng(0)
    fgs = draw.uniform(20, 40, IMAGES)
    fg = fgs - less + draw.normal(0, 1, IMAGES)
    rows = pl.concat([
        shown("a", "fg-minimal", "b", first(60), rmsd=fg.tolist()),
        shown("a", "fgs-minimal", "b", first(60), rmsd=fgs.tolist()),
    ])  # fmt: skip
    found = verdict(rows, spec_with(claim=SEARCHED))
    assert found["verdict"] == said
    assert found["effect"] == pytest.approx((fgs - fg).mean())


def test_a_search_in_vain_counts_with_its_end():
    rows = pl.concat([
        shown("a", "fg-minimal", "b", first(60), rmsd=[50.0] * IMAGES),
        shown("a", "fgs-minimal", "b", first(0), rmsd=[0.0] * IMAGES),
    ])  # fmt: skip
    found = verdict(rows, spec_with(claim=SEARCHED))
    assert (found["effect"], found["verdict"]) == (10.0, "replicated")


@pytest.mark.parametrize(
    ("forth", "back", "by", "said"),
    [
        (50, 10, 0.0, "replicated"),
        (10, 50, 0.3, "replicated"),
        (30, 30, 0.1, "not replicated"),
        (30, 32, 0.0, "undecided"),
        (30, 27, 0.1, "undecided"),
    ],
)
def test_asymmetric(forth, back, by, said):
    rates = {("a", "igsm", "b"): forth, ("b", "igsm", "a"): back}
    rows = transfers(rates)
    check = {"of": {"attacks": "igsm", "experiment": "single", "sources": ["a", "b"], "targets": ["a", "b"]}, "by": by}
    found = verdict(rows, spec_with(claim={"asymmetric": check}))
    assert found["verdict"] == said, found
    assert found["effect"] == pytest.approx((forth - back) / IMAGES)


@pytest.mark.parametrize(
    ("rates", "direction", "said"),
    [
        ((10, 30, 50), "falling", "replicated"),
        ((10, 30, 50), "rising", "not replicated"),
        ((30, 31, 32), "falling", "undecided"),
        ((10, 55, 40), "falling", "not replicated"),
    ],
)
def test_monotone_along_a_number_of_the_recipes(rates, direction, said):
    """`falling`: the smaller gamma, the more succeed. Rates are those of gamma 1, 0.5 and 0.2."""
    attacks = ("sgm-1.0", "sgm-0.5", "sgm-0.2")
    rows = transfers({("a", name, target): hits for name, hits in zip(attacks, rates, strict=True) for target in "bc"})
    check = {"of": {"experiment": "gamma"}, "along": "skip_gradient.gamma", "direction": direction}
    found = verdict(rows, spec_with(claim={"monotone": check}))
    assert found["verdict"] == said, found
    slope = np.polyfit([0, 1, 2], np.array(rates) / IMAGES, 1)[0] * 2
    assert found["effect"] == pytest.approx(slope if direction == "falling" else -slope)
    assert [one["cell"] for one in found["cells"]] == ["a -> b", "a -> c"]


def test_monotone_along_steps_and_along_sources():
    walk = pl.concat(
        [shown("a", "walk", "b", first(hits), steps=steps) for steps, hits in ((10, 5), (20, 25), (30, 55))]
    )
    along = {"monotone": {"of": {"experiment": "walk"}, "along": "steps", "direction": "rising"}}
    assert verdict(walk, spec_with(claim=along))["verdict"] == "replicated"
    last = {"rate": {"of": {"experiment": "walk"}, "above": 0.7}}
    assert verdict(walk, spec_with(claim=last))["effect"] == pytest.approx(55 / 60), "the finished attack counts"
    depth = transfers({("a", "igsm", "c"): 50, ("b", "igsm", "c"): 20})
    of = {"experiment": "single", "attacks": "igsm", "targets": "c", "sources": ["a", "b"]}
    check = {"of": of, "along": "sources", "order": ["a", "b"], "direction": "falling"}
    assert verdict(depth, spec_with(claim={"monotone": check}))["verdict"] == "replicated"


@pytest.mark.parametrize(
    ("lower", "than", "said"), [(10, 45, "replicated"), (45, 10, "not replicated"), (30, 31, "undecided")]
)
def test_destruction(lower, than, said):
    """Fifty images fool the plain model with both attacks; of those so many are right again behind the blur."""
    rows = pl.concat([
        shown("a", "igsm", "b", first(50)), shown("a", "mi", "b", first(55)),
        shown("a", "igsm", "blurred", first(50 - than)), shown("a", "mi", "blurred", first(50 - lower)),
    ])  # fmt: skip
    check = {"lower": {"experiment": "files", "attacks": "mi", "targets": "blurred"}}
    check["than"] = {"experiment": "files", "attacks": "igsm", "targets": "blurred"}
    found = verdict(rows, spec_with(claim={"destruction": check}))
    assert found["verdict"] == said, found
    assert found["images"] == 50
    assert found["effect"] == pytest.approx((than - lower) / 50)


def test_destruction_without_a_transform_says_so_and_no_more():
    check = {key: {"experiment": "files", "attacks": "mi", "targets": "b"} for key in ("lower", "than")}
    found = verdict(shown("a", "mi", "b", first(50)), spec_with(claim={"destruction": check}))
    assert found["verdict"] == "undecided"
    assert found["reason"] == "no target has a transform, or the spec lacks the same models without the transform"
    check["lower"] |= {"targets": "blurred"}
    found = verdict(shown("a", "mi", "b", first(50)), spec_with(claim={"destruction": check}))
    assert found["reason"] == (
        "no target has a transform, or the spec lacks the same models without the transform; "
        "rows are missing: mi on a against blurred"
    )


@pytest.mark.parametrize(("mean", "said"), [(0.01, "replicated"), (0.3, "not replicated"), (0.1, "undecided")])
def test_cosine(mean, said):
    draw = np.random.default_rng(1)
    pairs = [
        {"probe": "angles", "image": f"{image:03d}", "first": one, "second": other, "copies": None, "cosine": value}
        for one, other in (("a", "b"), ("b", "a"), ("a", "a"))
        for image, value in enumerate(draw.normal(mean, 0.05, IMAGES))
    ]
    geometry = pl.DataFrame(pairs, schema_overrides={"copies": pl.Int32}).lazy()
    spec = spec_with(claim={"cosine": {"below": 0.1}})
    assert verdict(everywhere(1, 1), spec, geometry=geometry)["verdict"] == said
    found = verdict(everywhere(1, 1), spec)
    assert found["verdict"] == "undecided"
    assert "no rows of a gradient-cosine probe" in found["reason"]


def test_binomial_and_mcnemar_against_scipy():
    for images, share in ((10, 0.5), (37, 0.1), (60, 0.85)):
        for hits in range(images + 1):
            tails = [stats.binomtest(hits, images, share, alternative=side).pvalue for side in ("less", "greater")]
            assert significance.binomial(hits, images, share) == pytest.approx(min(1, 2 * min(tails)), abs=1e-12)
    for one, other in ((0, 0), (3, 0), (7, 2), (10, 10)):
        expected = stats.binomtest(one, one + other, 0.5).pvalue if one + other else 1.0
        assert significance.mcnemar(one, other) == pytest.approx(expected)
    assert significance.binomial(2.5, 10, 0.5) == significance.binomial(3, 10, 0.5)
    assert significance.binomial(7.5, 10, 0.5) == significance.binomial(7, 10, 0.5)
    assert significance.binomial(0, 10, 0.0) == 1.0
    assert significance.binomial(1, 10, 0.0) == 0.0


def test_sign_flips_against_scipy():
    values = np.random.default_rng(2).normal(0.4, 1, 9)
    every = [
        abs(sum(s * v for s, v in zip(signs, values, strict=True))) for signs in itertools.product((1, -1), repeat=9)
    ]
    seen = abs(values.sum())
    assert significance.sign_flips(values) == pytest.approx(np.mean([one >= seen - 1e-12 for one in every]))
    many = np.random.default_rng(3).normal(0.25, 1, 80)
    known = stats.permutation_test(
        (many,), np.mean, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(0)
    )
    assert significance.sign_flips(many) == pytest.approx(known.pvalue, abs=0.01)
    assert significance.sign_flips(many + 3, 3.0) == pytest.approx(significance.sign_flips(many), abs=1e-9)
    assert significance.sign_flips(np.zeros(0)) == 1.0


def test_bootstrap_interval_and_holm():
    values = np.random.default_rng(4).normal(1, 2, 100)
    low, high = bootstrap.interval_of_mean(values)
    known = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(0))
    assert (low, high) == pytest.approx(tuple(known.confidence_interval), abs=0.06)
    assert all(math.isnan(one) for one in bootstrap.interval_of_mean(np.zeros(0)))
    given = [0.01, 0.04, 0.03, 0.005]
    assert significance.holm(given) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert significance.holm([]) == []


@pytest.mark.parametrize(
    ("check", "told"),
    [
        ({"rate": {"of": {}, "below": 0.1, "above": 0.2}}, "a rate has exactly one bound"),
        ({}, "a check must have exactly one statement, but this check has none"),
        ({"rate": {"of": {}, "below": 0.1}, "cosine": {"below": 0.1}}, "this check has rate and cosine"),
        ({"rate": {"of": {"attacks": "migsm"}, "below": 0.1}}, "there is no attack named 'migsm'"),
        ({"rate": {"of": {"experiment": "sinlge"}, "below": 0.1}}, "there is no experiment named 'sinlge'"),
        ({"rate": {"of": {"targets": "d"}, "below": 0.1}}, "there is no model named 'd'"),
        (
            {"rate": {"of": {"experiment": "gamma", "goal": "targeted"}, "below": 0.1}},
            "this selection matches no planned cell",
        ),
        ({"asymmetric": {"of": {}, "pairs": [["a"]]}}, "is not a pair of models"),
        ({"monotone": {"of": {}, "along": "sources", "direction": "rising"}}, "`along: sources` needs an `order`"),
        ({"monotone": {"of": {}, "along": "target", "order": ["a", "d"], "direction": "rising"}}, "no model named 'd'"),
        ({"cosine": {"below": 0.1, "probe": "angles"}}, "there is no probe named 'angles'"),
    ],
)
def test_what_cannot_be_checked_is_refused_with_its_place(check, told):
    with pytest.raises(StudyError, match="spec") as caught:
        spec_with(claim=check)
    assert told in str(caught.value)
    assert "findings.claim" in str(caught.value)


def test_findings_change_no_row():
    assert spec_with(claim=BETTER).identity() == spec_with().identity()
    again = resolve(parse(spec_with(claim=BETTER).text(), "again")).spec
    assert again == spec_with(claim=BETTER)
    assert json.dumps(again.model_dump(mode="json"))


def test_details_have_every_cell():
    found = evaluate(everywhere(10, 50).lazy(), spec_with(claim=BETTER))
    assert found.schema["cells"] == pl.List(CELLS)
    assert [one["cell"] for one in found["cells"][0]] == [
        "a -> b", "a -> c", "b -> a", "b -> c", "c -> a", "c -> b"
    ]  # fmt: skip


def repeated(hits: list[int], images: int) -> list[int]:
    """The same share of successes among so many images, spread evenly."""
    share = sum(hits) / len(hits)
    return [round((place + 1) * share) - round(place * share) for place in range(images)]


@pytest.mark.parametrize("holds", ["average", "each", "some"])
@pytest.mark.parametrize(("better", "check"), [
    (33, {"rate": {"of": {"experiment": "walk"}, "above": 0.5}}),
    (27, {"rate": {"of": {"experiment": "walk"}, "above": 0.5}}),
    (27, {"rate": {"of": {"experiment": "walk"}, "below": 0.5}}),
])  # fmt: skip
def test_how_many_images_would_decide_a_rate(better, check, holds):
    spec = spec_with(claim={"rate": check["rate"] | {"holds": holds}})
    found = verdict(transfers({("a", "walk", "b"): better}), spec)
    assert found["verdict"] == "undecided"
    # Wilson's interval ends at 0.5 where the deviation of 0.05 is 1.96 standard errors of 0.5 / sqrt(images): 385.
    needed = found[holds]["needed"]
    assert 385 < needed == found["needed"] < 410, "the exact test needs a few more"
    for images, decided in ((needed + 20, True), (needed - 60, False)):
        more = shown("a", "walk", "b", repeated(first(better), images))
        assert (verdict(more, spec)["verdict"] != "undecided") == decided


def test_how_many_images_would_decide_a_difference():
    """MI fools 12 of 60 images that IGSM does not, and IGSM 6 that MI does not, in each of six cells."""
    igsm, mi = [0] * 12 + [1] * 6 + [0] * 42, [1] * 12 + [0] * 6 + [0] * 42

    def rows(times, worse=None):
        return pl.concat(
            shown(one, attack, other, (igsm if (attack == "igsm") != ((one, other) == worse) else mi) * times)
            for one, other in itertools.product("abc", "abc")
            for attack in ("igsm", "mi")
        )

    spec = spec_with(claim=BETTER)
    found = verdict(rows(1), spec)
    expected = found["each"]["needed"]
    assert (found["verdict"], found["average"]["needed"]) == ("undecided", expected)
    # 36 against 18 images of 180 are enough for McNemar's test, and 24 against 12 of 120 are not.
    assert stats.binomtest(36, 54).pvalue < 0.05 < stats.binomtest(24, 36).pvalue
    assert 120 < expected <= 180
    assert verdict(rows(3), spec)["verdict"] == "replicated"
    assert verdict(rows(2), spec)["verdict"] == "undecided"
    # One cell in which MI is worse refutes a claim about every cell, after the correction over six cells.
    against = verdict(rows(1, ("a", "b")), spec)
    corrected = against["each"]["needed"]
    assert stats.binomtest(48, 72).pvalue < 0.05 / 6 < stats.binomtest(36, 54).pvalue
    assert (against["verdict"], 180 < corrected <= 240) == ("undecided", True)
    assert verdict(rows(4, ("a", "b")), spec)["verdict"] == "not replicated"
    assert verdict(rows(3, ("a", "b")), spec)["verdict"] == "undecided"


def test_a_decided_claim_and_a_lost_cause_need_no_images():
    decided = verdict(everywhere(10, 50), spec_with(claim=BETTER))
    assert [decided[key]["needed"] for key in ("average", "each", "some")] == [None] * 3
    equal = verdict(everywhere(30, 30), spec_with(claim=BETTER))
    assert (equal["verdict"], equal["needed"]) == ("undecided", None)
    few = verdict(everywhere(0, 4, images=4), spec_with(claim=BETTER))
    assert few["needed"] == 6, "2 / 2^6 is the first p below 0.05"
    lacking = verdict(everywhere(30, 32).filter(pl.col("image") > "000"), spec_with(claim=BETTER), images=IMAGES)
    assert "rows are missing" in lacking["reason"]
    assert lacking["needed"] is None


@pytest.mark.parametrize(
    ("images", "said"), [(7, "7"), (99, "99"), (385, "390"), (1201, "1,300"), (10**6 + 1, "more than 1,000,000")]
)
def test_estimates_are_rounded_up(images, said):
    assert rounded(images) == said
