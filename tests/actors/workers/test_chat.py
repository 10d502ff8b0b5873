"""A chat service as a target of a whole study: rambling, refusing, slow, failing, judged, asked only a few times."""

from __future__ import annotations

import io
import json

import polars as pl
import pytest
import yaml
from rich.console import Console

from study.analysis.queries import success_by_queries
from study.analysis.rates import clean_accuracies, succeeded, success_rates
from study.commands.judge import judge_run
from study.errors import StudyError
from study.images.labels import label_set
from study.models import Model, loading
from study.models.predict import predict
from study.results import scanning
from study.results.verify import verify
from study.spec.loading import load
from tests.conftest import TINY, rows, run_here
from tests.services import FakeChat, fingerprint

SMALL = {"network": "timm:test_efficientnet", "weights": "random:3", "size": 64}
IMAGENET = label_set("imagenet")
PROMPT = "Name the main object."
REFUSAL = "I\u2019m sorry, but I can\u2019t help with that."


def refuses(pixels) -> bool:
    return int(fingerprint(pixels), 16) % 5 == 0


@pytest.fixture(scope="module")
def label_of():
    """The label that the network behind the service gives."""
    model = loading.load("m", Model.model_validate(SMALL), fold=True)
    return lambda pixels: int(predict(model, pixels[None], batch=2).top5[0][0])


@pytest.fixture(scope="module")
def say(label_of):
    def answer(pixels):
        if refuses(pixels):
            return REFUSAL
        word = IMAGENET.words(label_of(pixels))[0].upper()
        return f"Good question! What I see is, most likely, {word}s. Anything else?"

    return answer


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def spec_of(url, **more):
    quick = {"rate": 5000, "backoff": 0.01, "most_wait": 0.05, "timeout": 5, "attempts": 20}
    remote = {"url": url, "api": "chat", "model": "big", "prompt": PROMPT, **quick, **more}
    return yaml.safe_load(TINY) | {
        "images": {"sample": "foolbox", "size": 48, "keep": "all", "count": 5},
        "models": {"a": SMALL, "chat": {"remote": remote}},
        "attacks": {"mi": {"steps": 3, "checkpoints": [1, 2, 3]}},
        "experiments": {"one": {"attacks": ["mi"], "sources": ["a"], "goal": ["untargeted", "targeted"]}},
    }


@pytest.fixture(scope="module")
def quiet(say, tmp_path_factory):
    """The study with a service that never fails: its run folder, and how many images it was sent."""
    folder = tmp_path_factory.mktemp("quiet")
    with FakeChat(say=say) as fake:
        (folder / "spec.yaml").write_text(yaml.safe_dump(spec_of(fake.url)))
        status, printed = run_here(folder / "spec.yaml", folder / "run")
        assert status == 0, printed
        assert set(fake.answered.values()) == {1}
        sent = json.loads(fake.requests[0].body)
        assert sent["messages"][0]["content"][0] == {"type": "text", "text": PROMPT}
        assert (sent["model"], sent["temperature"]) == ("big", 0)
        return folder / "run", len(fake.answered), printed


def names_of(label):
    return [word.casefold() for word in IMAGENET.words(label)]


def test_sentences_are_rows_and_judged_by_the_labels_that_they_name(quiet):
    """Against the local model that is behind the service, whose labels stand in the rows of target `a`."""
    run, _, printed = quiet
    found = rows(run)
    keys = ["craft", "steps", "image"]
    local = found.filter(target="a").select(*keys, pl.col("top1").alias("best"))
    both = found.filter(target="chat").join(local, on=keys)
    assert both.height == 2 * 3 * 5
    hits = []
    for row in both.iter_rows(named=True):
        assert (row["top5"], row["top1"], row["queries"]) == ([], None, None)
        assert row["true_names"] == names_of(row["label"])
        if row["refused"]:
            assert (row["sentence"], row["names"]) == (REFUSAL, [])
            hits.append(False)
            continue
        assert row["sentence"].startswith("Good question!")
        assert set(row["names"]) & set(names_of(row["best"]))
        wanted = row["label"] if row["goal"] == "untargeted" else row["target_label"]
        named = bool(set(row["names"]) & set(names_of(wanted)))
        hits.append(named == (row["goal"] == "targeted"))
    assert 0 < both["refused"].sum() < both.height
    assert {True, False} == set(hits)
    cells = success_rates(scanning.scan(run)).filter(target="chat")
    assert cells["hits"].sum() == sum(hits)
    assert cells["answers"].sum() == len(hits)
    right = both.unique("image").filter(pl.col("clean_names").list.set_intersection("true_names").list.len() > 0)
    accuracy = clean_accuracies(scanning.scan(run)).filter(target="chat")
    assert accuracy["hits"].item() == right.height
    among = success_rates(scanning.scan(run), among="clean-correct").filter(target="chat")
    assert set(among["images"]) == {right.height}
    assert verify(run).whole
    assert "chat: predicting 5 clean images" in printed
    assert found.filter(target="a")["sentence"].is_null().all()


def test_slow_failing_filtering_and_dying_half_way(quiet, say, spec_file, tmp_path):
    """One request in three fails, answers are garbage, and after 15 of them the server is gone; then it is back."""
    undisturbed, images, _ = quiet
    run = tmp_path / "run"
    with FakeChat(say=say, delay=0.02, fail_every=3, garbage_every=7, die_after=15) as fake:
        spec = spec_file(spec_of(fake.url))
        status, printed = run_here(spec, run, "run.shard=3")
        assert status == 1, printed
        assert "repaired: service: chat: a request is sent again" in printed
        fake.revive()
        status, printed = run_here(spec, run, "run.shard=3")
        assert status == 0, printed
        # Dying, it may cut an answer short that it has counted; nothing else is ever sent twice.
        assert sum(times - 1 for times in fake.answered.values()) <= 4  # `parallel`
        assert len(fake.answered) == images
    assert rows(run, without=("unit",)).equals(rows(undisturbed, without=("unit",)))


def test_limited_queries_stop_at_the_first_success(quiet, say, spec_file, tmp_path):
    """The rows of a limited service follow from those of an unlimited one; so does what it was asked."""
    with FakeChat(say=say) as fake:
        assert run_here(spec_file(spec_of(fake.url, queries=2)), tmp_path / "run")[0] == 0
        asked = len(fake.images)
    keys, order = ["goal", "image"], ["goal", "image", "steps"]
    columns = [*order, "sentence", "rmsd"]
    hit = succeeded().alias("hit")
    free = rows(quiet[0]).filter(target="chat").select(*columns, hit).sort(order)
    limited = rows(tmp_path / "run").filter(target="chat").select(*columns, "queries", hit).sort(order)
    count = 0
    for (key, all_of), (_, few) in zip(
        free.group_by(keys, maintain_order=True), limited.group_by(keys, maintain_order=True), strict=True
    ):
        outcomes = all_of["hit"].to_list()
        ends = [min([i for i in range(k + 1) if outcomes[i]] or [min(k, 1)]) if any(outcomes[: min(k, 1) + 1])
                else min(k, 1) for k in range(3)]  # fmt: skip
        assert few["queries"].to_list() == [end + 1 for end in ends], key
        for column in ("sentence", "rmsd", "hit"):
            assert few[column].to_list() == all_of[column].gather(ends).to_list(), (key, column)
        count += max(ends) + 1
    assert limited["queries"].max() == 2
    assert 1 in limited.filter(steps=3)["queries"].to_list()
    clean = 5
    assert asked <= clean + count  # equal images of two goals are sent once
    found = success_by_queries(scanning.scan(tmp_path / "run").filter(pl.col("target") == "chat"))
    assert found["queries"].to_list() == [1, 2, 1, 2]
    whole = success_by_queries(scanning.scan(quiet[0]).filter(pl.col("target") == "chat"), most=2)
    assert whole.select("goal", "queries", "hits").equals(found.select("goal", "queries", "hits"))


def test_more_requests_than_allowed_are_not_begun(say, spec_file, tmp_path):
    """5 images, each clean and in 2 x 3 versions, are 35 requests."""
    with FakeChat(say=say) as fake:
        spec = spec_file(spec_of(fake.url, most=34))
        with pytest.raises(StudyError, match="up to 35 requests: 5 clean images, and up to 6 adversarial") as error:
            run_here(spec, tmp_path / "run")
        assert "`most` is 34" in str(error.value)
        assert not fake.requests
        # What a failing service is sent again counts too.
        fake.fail_every = 2
        spec = spec_file(spec_of(fake.url, most=35))
        status, printed = run_here(spec, tmp_path / "run")
        assert (status, len(fake.requests)) == (1, 35), printed
        assert "`most` is 35, so" in printed
        assert run_here(spec, tmp_path / "run")[0] == 1
        assert len(fake.requests) == 35


def test_judged_again_without_asking(quiet, say, spec_file, tmp_path):
    """Other phrases and other names; then a second model, which is asked once for each sentence and label."""
    stricter = spec_of("http://127.0.0.1:9/", judge={"refusals": []}, names={"281": ["good question"]})
    stricter["models"]["chat"]["remote"]["url"] = url = remote_url(quiet[0])
    printed = judged(quiet[0], spec_file(stricter), tmp_path / "stricter")
    assert "30 answers judged again" in printed
    before, after = (rows(run).filter(target="chat") for run in (quiet[0], tmp_path / "stricter"))
    assert not after["refused"].any()
    good = after.filter(pl.col("sentence").str.starts_with("Good"))
    assert good["names"].list.contains("good question").all()
    assert after.drop("names", "refused", "clean_names", "true_names", "wanted_names").equals(
        before.drop("names", "refused", "clean_names", "true_names", "wanted_names")
    )
    assert verify(tmp_path / "stricter").whole
    with pytest.raises(StudyError, match="exists"):
        judged(quiet[0], spec_file(stricter), tmp_path / "stricter")
    with pytest.raises(StudyError, match="other requests to 'chat' than the run made"):
        judged(quiet[0], spec_file(spec_of(url, prompt="Other?")), tmp_path / "other")

    def agrees(text):
        answer, label = text.split(" | ")
        return "Yes." if any(word.upper() in answer for word in label.split(", ")) else "no"

    with FakeChat(reply=agrees) as second:
        judge = {"model": "small", "prompt": "{answer} | {label}", "url": second.url}
        printed = judged(quiet[0], spec_file(spec_of(url, judge=judge)), tmp_path / "second")
        assert len(second.texts) == len(set(second.texts)) > 0
        again = rows(tmp_path / "second").filter(target="chat")
        assert again.select(succeeded())["names"].equals(before.select(succeeded())["names"]), "as keywords say"
        second.reply = lambda text: "Perhaps."
        with pytest.raises(StudyError, match=r"replied 'Perhaps\.', not yes or no"):
            judged(quiet[0], spec_file(spec_of(url, judge=judge | {"prompt": "{label} | {answer}"})), tmp_path / "x")
        assert not (tmp_path / "x").exists()
        second.reply, asked = agrees, len(second.texts)
        prompt = {"prompt": "{answer} | {label}", "url": second.url, "model": "small"}
        assert "judged again" in judged(quiet[0], spec_file(spec_of(url, judge=prompt)), tmp_path / "x")
        assert len(second.texts) - asked == len(set(second.texts[asked:])) > 0


def remote_url(run):
    return yaml.safe_load((run / "spec.yaml").read_text())["models"]["chat"]["remote"]["url"]


def judged(run, spec, output):
    printed = io.StringIO()
    judge_run(str(run), load(spec), output, Console(file=printed, width=200))
    return printed.getvalue()


def test_a_second_model_judges_while_the_study_runs(say, spec_file, tmp_path):
    """It is asked about true and target labels, with the credential of its own; nothing is asked twice."""
    with FakeChat(say=say, reply=lambda text: "yes" if "GREAT" in text else "No!") as fake:
        spec = spec_file(spec_of(fake.url, judge={"model": "small"}))
        assert run_here(spec, tmp_path / "run")[0] == 0
        assert len(fake.texts) == len(set(fake.texts)) > 0
        asked = len(fake.texts), len(fake.requests)
        for part in (tmp_path / "run" / "results").iterdir():
            part.unlink()
        assert run_here(spec, tmp_path / "run")[0] == 0
        assert asked == (len(fake.texts), len(fake.requests))
