"""Checks across the parts of a spec: each message says what is wrong, and what it calls accepted is accepted."""

from __future__ import annotations

import pytest

from study.errors import StudyError
from study.spec.loading import resolve
from study.spec.yaml_document import parse

MODELS = """
  resnet18: {}
  resnet50: {}
"""
KINDS = """
  only: {network: resnet18, role: source}
  plain: resnet50
  behind: {model: plain, transform: [{jpeg: 75}]}
  box: {remote: {url: "http://127.0.0.1:9/", send: json}}
"""
"""A model of each kind: only a source, source and target, and two that are only targets."""


def refused(*, models=KINDS, images="keep: all", attacks="mi", experiment="sources: [plain]", geometry="{}"):
    text = f"""
study: checked
images: {{sample: foolbox, size: 64, count: 4, {images}}}
models: {models}
geometry: {geometry}
experiments:
  x: {{attacks: [{attacks}], {experiment}}}
"""
    with pytest.raises(StudyError) as caught:
        resolve(parse(text, "spec"))
    return caught.value


def test_all_models_of_one_family_leave_no_target():
    error = refused(models=MODELS, experiment="sources: each, targets: {not-family-of: sources}")
    assert error.what == "no target is left for the sources resnet18: `not-family-of` leaves out all models"
    assert error.where == "spec, line 10, experiments.x.targets"
    assert error.todo == "add a model of another family, or name the targets in a list"


def test_all_models_of_among_are_left_out():
    error = refused(models=MODELS, experiment="sources: each, targets: {not-family-of: sources, among: [resnet18]}")
    assert error.what == (
        "no target is left for the sources resnet18: `not-family-of` leaves out all models in `among`"
    )


def test_sources_only_leave_no_target():
    for targets in ("", ", targets: {not-family-of: sources}"):
        error = refused(
            models="{only: {network: resnet18, role: source}}", experiment=f"sources: each{targets}", images="keep: all"
        )
        assert error.what == "no model is left as a target: all models of this spec are sources only"
        assert error.todo == "add a model without `role: source`"


def test_a_set_of_weights_is_described_if_no_model_has_one():
    error = refused(models=MODELS, attacks="lgv", experiment="sources: each")
    assert error.what == "'lgv' draws from a set of weights, but the source 'resnet18' has no set"
    assert error.accepted == "a model with `weights: {set: folder/*.safetensors}` and `role: source`"


def test_a_model_with_a_set_of_weights_is_named():
    models = '{a: resnet50, lots: {network: resnet18, weights: {set: "w/*.safetensors"}, role: source}}'
    error = refused(models=models, attacks="lgv", experiment="sources: [a]")
    assert error.accepted == "lots"


ONLY = "{only: {network: resnet18, role: source}}"
BOX = 'box: {remote: {url: "http://127.0.0.1:9/", send: json}}'
ONLY_AND_BOX = f"{{only: {{network: resnet18, role: source}}, {BOX}}}"
PROBED = "a model with a network, without a transform and without `role: source`"


@pytest.mark.parametrize("name", ["only", "box", "zzz"])
def test_a_needed_model_is_described_if_no_model_fits(name):
    """No message says that nothing is accepted: it describes the model that the spec lacks."""
    if name != "box":
        error = refused(models=ONLY, experiment=f"sources: each, targets: [{name}]")
        assert error.accepted == "a model without `role: source`"
    for key in (f"keep: [{name}]", f"targets: {{rank: 2, by: [{name}]}}"):
        error = refused(models=ONLY_AND_BOX, images=key, experiment="sources: [only]")
        assert error.accepted == "a model without `remote` and without `role: source`"
    probe = f"{{p: {{probe: gradient-cosine, models: [{name}]}}}}"
    error = refused(models=ONLY_AND_BOX, experiment="sources: [only]", geometry=probe)
    assert error.accepted == PROBED


@pytest.mark.parametrize("sources", ["[zzz]", "{each: [zzz]}"])
def test_a_source_is_described_if_no_model_has_gradients(sources):
    error = refused(models=f"{{{BOX}}}", experiment=f"sources: {sources}")
    assert error.what == "there is no model named 'zzz'"
    assert error.accepted == "a model with a network and without a transform"


@pytest.mark.parametrize("key", ["keep: [{}]", "targets: {{rank: 2, by: [{}]}}"])
@pytest.mark.parametrize(
    ("model", "what"),
    [
        ("only", "'only' can only be a source"),
        ("box", "'box' is a remote service"),
        ("zzz", "there is no model named 'zzz'"),
    ],
)
def test_models_that_select_images(key, model, what):
    """What a message calls accepted is accepted in this place, for an unknown model too."""
    error = refused(images=key.format(model))
    assert error.what.startswith(what)
    assert error.accepted == "plain, behind"


@pytest.mark.parametrize(
    ("probe", "model", "accepted"),
    [
        ("{{probe: gradient-cosine, models: [{}]}}", "only", "plain"),
        ("{{probe: gradient-cosine, models: [{}]}}", "behind", "plain"),
        ("{{probe: gradient-cosine, models: [{}]}}", "box", "plain"),
        ("{{probe: gradient-cosine, models: [{}]}}", "zzz", "plain"),
        ("{{probe: regions, along: {{gradient_of: {}}}, extent: 60, points: 21}}", "box", "only, plain"),
        ("{{probe: regions, along: {{gradient_of: {}}}, extent: 60, points: 21}}", "zzz", "only, plain"),
    ],
)
def test_models_of_probes(probe, model, accepted):
    error = refused(geometry=f"{{p: {probe.format(model)}}}")
    assert f"'{model}'" in error.what
    assert error.accepted == accepted


def test_models_of_experiments():
    assert refused(experiment="sources: [plain], targets: [only]").accepted == "plain, behind, box"
    assert refused(experiment="sources: [plain], targets: [zzz]").accepted == "plain, behind, box"
    for sources in ("[zzz]", "[[plain, zzz]]", "{each: [zzz]}"):
        assert refused(experiment=f"sources: {sources}").accepted == "only, plain"
