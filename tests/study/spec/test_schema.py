"""The spec: resolution, round trips, source sets, overrides, and what counts as identity."""

from __future__ import annotations

import re

import pytest
from pydantic import BaseModel

from study.attacks.recipe import Attack
from study.errors import StudyError
from study.reproducibility.numerics import Numerics
from study.spec.loading import load, resolve
from study.spec.schema import Spec
from study.spec.yaml_document import override, parse
from tests.conftest import ROOT, TINY

SHIPPED = sorted((ROOT / "specs").rglob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT / "specs")))
def test_shipped_specs_resolve_to_specs_that_resolve_to_themselves(path, monkeypatch):
    for name in re.findall(r"\$\{(\w+)\}", path.read_text()):
        monkeypatch.setenv(name, "https://service.example" if name.endswith("_URL") else "/data")
    spec = load(path).spec
    assert resolve(parse(spec.text(), "resolved")).spec == spec


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("each", [("a",), ("b",), ("c",)]),
        ("all", [("a", "b", "c")]),
        ("leave-one-out", [("b", "c"), ("a", "c"), ("a", "b")]),
        ("{each: [c, a]}", [("c",), ("a",)]),
        ("{leave-one-out: [a, c]}", [("c",), ("a",)]),
        ("{all: [c, a]}", [("a", "c")]),
        ("[b, [c, a], b]", [("b",), ("a", "c")]),
    ],
)
def test_source_sets(written, expected):
    text = TINY.replace("sources: leave-one-out", f"sources: {written}")
    spec = resolve(parse(text, "spec")).spec
    assert spec.experiments["ensembles"].sources.resolve(tuple(spec.models)) == expected
    assert resolve(parse(spec.text(), "resolved")).spec == spec


def test_presets_need_no_entry_and_bring_what_they_are_matched_to():
    text = TINY.replace("attacks: [mi, summed]", "attacks: [igsm]")
    assert resolve(parse(text, "spec")).spec.attacks["igsm"].step_size == 2
    only = "\n".join(line for line in text.splitlines() if "optimization" not in line and "single" not in line)
    spec = resolve(parse(only.replace("[igsm]", "fg"), "spec")).spec
    assert spec.attacks["fg"].budget.to == "optimization"
    assert spec.attacks["optimization"].learning_rate == 4


def test_an_attack_that_no_experiment_uses_may_be_matched_to_a_preset():
    text = TINY.replace("  optimization: {steps: 3}\n", "").replace(
        "attacks: [optimization, fg, fgs, mi]", "attacks: [mi]"
    )
    spec = resolve(parse(text, "spec")).spec
    assert spec.attacks["fg"].budget.to == "optimization"
    assert "optimization" not in spec.attacks


def test_environment(monkeypatch):
    text = TINY.replace("study: tiny", "study: ${NAME}-${SIZE:-small}")
    assert parse(text, "spec", {"NAME": "x"}).data["study"] == "x-small"
    assert parse(text, "spec", {"NAME": "x", "SIZE": "big"}).data["study"] == "x-big"


def test_overrides_lie_over_the_text():
    document = parse(TINY, "spec")
    override(document, "images.count=3")
    override(document, "run.actors=2")
    override(document, "attacks.igsm.step_size=1e-1")
    spec = resolve(document).spec
    assert (spec.images.count, spec.run.actors, spec.attacks["igsm"].step_size) == (3, 2, 0.1)


def test_an_alias_that_unfolds_without_end_is_refused():
    for text in (
        "a: &a [*a]",
        "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" if n else "a0: &a0 [x]" for n in range(9)),
    ):
        with pytest.raises(StudyError):
            parse(text, "bomb")


IDENTITY = {
    "study", "format", "seed", "seeds", "images", "models", "attacks", "experiments", "numerics",
    "images.sample", "images.size", "images.keep", "images.count", "images.targets", "images.split", "images.labels",
    "images.fit", "images.channels", "images.corrupt", "images.draw",
    "models.network", "models.model", "models.remote", "models.weights", "models.sha256", "models.arguments",
    "models.size", "models.interpolation", "models.mean", "models.std", "models.channels", "models.range",
    "models.classes", "models.prompts", "models.transform", "models.role", "models.family",
    "attacks.objective", "attacks.penalty", "attacks.fusion", "attacks.weights", "attacks.diversity", "attacks.scales",
    "attacks.smoothing", "attacks.admix", "attacks.skip_gradient", "attacks.variance", "attacks.kernel",
    "attacks.momentum", "attacks.nesterov", "attacks.step", "attacks.step_size", "attacks.learning_rate",
    "attacks.start", "attacks.steps", "attacks.checkpoints", "attacks.budget", "attacks.precomputed",
    "attacks.views", "attacks.points", "attacks.updates", "attacks.penalties", "attacks.backward", "attacks.forward",
    "attacks.program", "attacks.external", "attacks.first", "attacks.tune",
    "experiments.attacks", "experiments.sources", "experiments.goal", "experiments.seeds", "experiments.targets",
    "experiments.at_cost",
    "geometry", "geometry.probe", "geometry.models", "geometry.images", "geometry.goal", "geometry.objective",
    "geometry.smoothing", "geometry.along", "geometry.across", "geometry.step", "geometry.extent", "geometry.points",
    "geometry.distances", "geometry.labels",
    "numerics.batch", "numerics.threads", "numerics.max_pass_images", "numerics.fold", "numerics.layout",
    "visibility", "visibility.lpips",
    "numerics.precision", "numerics.target_precision", "numerics.deterministic", "numerics.compile",
}  # fmt: skip
RUNTIME = {
    "findings", "findings.claim", "findings.source", "findings.check",
    "run", "experiments.published", "images.folder", "images.list", "images.truth", "images.parquet", "images.records",
    "run.shard", "run.actors", "run.models_per_actor", "run.actors_per_gpu", "run.actor_mib",
    "run.device", "run.wait_seconds",
    "run.attempts", "run.flush_seconds", "run.waiting_mib",
    "run.clean_mib", "run.memory_seconds", "run.lost_seconds",
    "run.keep_images", "run.start_seconds", "run.call_seconds", "run.straggler_seconds",
    "tracking", "tracking.wandb", "tracking.project", "tracking.entity", "tracking.group", "tracking.tags",
}  # fmt: skip


def _fields():
    for name, field in Spec.model_fields.items():
        yield name
        for annotated in (field.annotation, *getattr(field.annotation, "__args__", ())):
            argument = getattr(annotated, "__origin__", annotated)
            if isinstance(argument, type) and issubclass(argument, BaseModel):
                yield from (f"{name}.{inner}" for inner in argument.model_fields)


def test_every_field_is_identity_or_runtime():
    """A new field is put into one of the two tables, by whoever adds it, on purpose."""
    assert set(_fields()) == IDENTITY | RUNTIME
    identity = resolve(parse(TINY, "spec")).spec.identity()
    present = set(identity) | {
        f"{name}.{inner}" for name in ("images", "numerics", "run") for inner in identity.get(name, ())
    }
    assert not present & RUNTIME


def test_older_names_of_keys_are_accepted_and_change_no_id():
    """`made` and `room` are older names of `precomputed` and `max_pass_images`. Ids are hashes of dumps with these."""
    for model, older, key, value in ((Attack, "made", "precomputed", "x"), (Numerics, "room", "max_pass_images", 64)):
        one, other = model.model_validate({older: value}), model.model_validate({key: value})
        assert one == other
        assert one.model_dump(mode="json")[older] == value
        assert key not in one.model_dump(mode="json")
