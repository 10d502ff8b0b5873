"""A remote service as a target of a whole study: slow, failing, dying, resumed; nothing asked twice, nothing lost."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import yaml

from study.analysis.rates import success_rates
from study.errors import StudyError
from study.images.labels import label_set
from study.models import Model, loading
from study.models.predict import predict
from study.results import scanning
from tests.conftest import TINY, rows, run_here
from tests.services import FakeService

SMALL = {"network": "timm:test_efficientnet", "weights": "random:3", "size": 64}
IMAGENET = label_set("imagenet")


def own_name(index: int) -> str:
    """What the service calls a label: nothing that ImageNet calls it."""
    return f"Sort {997 * index % 1000}"


@pytest.fixture(scope="module")
def classify():
    """One of our models under other names: three labels with scores, not in order."""
    model = loading.load("m", Model.model_validate(SMALL), fold=True)

    def answer(pixels):
        said = predict(model, pixels[None], batch=2)
        best = [(own_name(int(one)), float(score)) for one, score in zip(said.top5[0], said.top5_prob[0], strict=True)]
        return best[2::-1]

    return answer


def spec_of(url, **more):
    quick = {"rate": 5000, "backoff": 0.01, "most_wait": 0.05, "timeout": 5, "attempts": 5, "top": 3}
    names = {str(index): own_name(index) for index in range(1000)}
    keys = yaml.safe_load(TINY)
    return keys | {
        "images": {"sample": "foolbox", "size": 48, "keep": "all", "count": 6},
        "models": {"a": SMALL, "service": {"remote": {"url": url, "names": names, **quick, **more}}},
        "attacks": {"mi": {"steps": 2}, "igsm": {"steps": 2}},
        "experiments": {"one": {"attacks": ["mi", "igsm"], "sources": ["a"], "goal": ["untargeted", "targeted"]}},
    }


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="module")
def quiet(classify, tmp_path_factory):
    """The study with a service that never fails: its run folder, and how many images it was sent."""
    folder = tmp_path_factory.mktemp("quiet")
    with FakeService(classify) as fake:
        (folder / "spec.yaml").write_text(yaml.safe_dump(spec_of(fake.url)))
        status, printed = run_here(folder / "spec.yaml", folder / "run")
        assert status == 0, printed
        assert set(fake.answered.values()) == {1}
        assert len(fake.requests) == len(fake.answered)
        return folder / "run", len(fake.answered), printed


def test_it_is_scored_by_its_own_words(quiet):
    """Against the local model that is behind the service, whose five labels stand in the rows of target `a`."""
    run, _, printed = quiet
    found = rows(run)
    keys = ["craft", "image"]
    local = found.filter(target="a").select(*keys, pl.col("top5").alias("best"), pl.col("clean_top1").alias("clean"))
    both = found.filter(target="service").join(local, on=keys)
    assert both.height == 4 * 6
    clean = pl.read_parquet(run / "images.parquet").explode("clean").unnest("clean")
    firsts = dict(clean.filter(model="a").select("image", "top5").iter_rows())
    hits = {}
    for row in both.iter_rows(named=True):
        names = [own_name(label).lower() for label in row["best"][:3]]
        assert row["names"] == names
        assert row["scores"] == sorted(row["scores"], reverse=True)
        assert (row["clean_top1"], row["top5"], row["relation"]) == (None, [], "black")
        assert row["clean_names"] == [own_name(label).lower() for label in firsts[row["image"]][:3]]
        if row["goal"] == "targeted":
            assert row["wanted_names"] == [own_name(row["target_label"]).lower()]
            hit = row["target_label"] in row["best"][:3]
        else:
            assert row["wanted_names"] is None
            hit = not set(row["best"][:3]) & set(firsts[row["image"]][:3])
        hits.setdefault((row["attack"], row["goal"]), []).append(hit)
    assert {True, False} == {hit for one in hits.values() for hit in one}
    cells = success_rates(scanning.scan(run)).filter(target="service")
    assert cells.height == 4
    for cell in cells.iter_rows(named=True):
        assert cell["success"] == pytest.approx(np.mean(hits[cell["attack"], cell["goal"]]))
    assert "service: predicting 6 clean images" in printed
    assert found.filter(target="a")["names"].is_null().all()


def test_slow_failing_and_dying_half_way(quiet, classify, spec_file, tmp_path):
    """One request in three fails, every answer takes its time, and after 15 of them the server is gone."""
    undisturbed, images, _ = quiet
    run = tmp_path / "run"
    with FakeService(classify, delay=0.02, fail_every=3, garbage_every=7, die_after=15) as fake:
        spec = spec_file(spec_of(fake.url))
        status, printed = run_here(spec, run, "run.shard=3")
        assert status == 1, printed
        assert "units are left" in printed
        assert "repaired: service: service: a request is sent again" in printed
        failures = json.loads((run / "failures.json").read_text())["failures"]
        assert {failure["target"] for failure in failures} == {"service"}
        assert "service" in failures[0]["error"]
        before = scanning.scan(run).collect().height
        fake.revive()
        status, printed = run_here(spec, run, "run.shard=3")
        assert status == 0, printed
        # Dying, it may cut an answer short that it has counted; nothing else is ever sent twice.
        assert sum(times - 1 for times in fake.answered.values()) <= 4
        assert len(fake.answered) == images
    found, expected = (rows(one, without=("unit",)) for one in (run, undisturbed))
    assert found.height == expected.height > before > 0
    assert found.equals(expected)
    assert not (run / "failures.json").exists()


def test_dead_from_the_beginning(classify, spec_file, tmp_path):
    with FakeService(classify) as fake:
        spec = spec_file(spec_of(fake.url, attempts=2))
    with pytest.raises(StudyError, match="service") as caught:
        run_here(spec, tmp_path / "run")
    assert "2" in str(caught.value)
    assert not (tmp_path / "run" / "spec.yaml").exists()


def test_another_attack_asks_about_new_images_only(quiet, classify, spec_file, tmp_path):
    """What is kept is kept for every later launch into the folder, also for another spec's first try."""
    with FakeService(classify) as fake:
        spec = spec_file(spec_of(fake.url))
        assert run_here(spec, tmp_path / "run")[0] == 0
        asked = len(fake.requests)
        for part in (tmp_path / "run" / "results").iterdir():
            part.unlink()
        assert run_here(spec, tmp_path / "run")[0] == 0
        assert len(fake.requests) == asked
    assert rows(tmp_path / "run").equals(rows(quiet[0]))


def test_a_credential_that_is_not_set(classify, spec_file, tmp_path, monkeypatch):
    monkeypatch.delenv("STUDY_TEST_KEY", raising=False)
    with FakeService(classify) as fake:
        spec = spec_file(spec_of(fake.url, credentials={"env": "STUDY_TEST_KEY", "header": "X-Api-Key"}))
        with pytest.raises(StudyError, match="STUDY_TEST_KEY is not set"):
            run_here(spec, tmp_path / "run")
        monkeypatch.setenv("STUDY_TEST_KEY", "tops3cret-0123456789")
        assert run_here(spec, tmp_path / "run")[0] == 0
        assert {request.headers["X-Api-Key"] for request in fake.requests} == {"tops3cret-0123456789"}
