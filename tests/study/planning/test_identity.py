"""Everything that decides a pixel is in an id, and every field is known to do so or not."""

from __future__ import annotations

import dataclasses

import polars as pl
import pytest
import yaml

from actors.scheduling.messages import CraftJob, PredictJob, ProbeJob
from actors.workers.worker_config import WorkerConfig
from study.attacks import registry
from study.attacks.components.diversity import Diversity
from study.attacks.kinds import KINDS
from study.attacks.loop import Engine
from study.attacks.recipe import Attack
from study.geometry.plan import GeometryPlan, ProbeTask
from study.images.image_sets import ImageSet
from study.images.selection import from_frame
from study.models import Model
from study.planning.plan import Plan
from study.reproducibility.numerics import Numerics
from study.spec.loading import resolve
from study.spec.schema import Spec
from study.spec.yaml_document import parse
from tests.conftest import TINY

ONE = {"step": "sign", "steps": 2, "step_size": 4, "budget": {"epsilon": 16}}
SPEC = yaml.safe_load(TINY) | {
    "attacks": {"one": ONE},
    "experiments": {
        "one": {"attacks": ["one"], "sources": ["a"], "targets": ["c"]},
        "many": {"attacks": ["one"], "sources": [["a", "b"]]},
    },
    "geometry": {
        "line": {
            "probe": "linearity",
            "along": {"attack": "one", "sources": ["a"]},
            "distances": {"from": -8, "to": 8, "by": 8},
        }
    },
}

ATTACK = {
    "objective": {"objective": "margin"},
    "penalty": {"penalty": {"rmsd": 23}},
    "fusion": {"fusion": "logit"},
    "weights": {"weights": {"a": 2.0}},
    "diversity": {"diversity": {}},
    "scales": {"scales": 2},
    "smoothing": {"smoothing": {}},
    "admix": {"admix": {}},
    "skip_gradient": {"skip_gradient": {"gamma": 0.5}},
    "variance": {"variance": {}},
    "kernel": {"kernel": {}},
    "momentum": {"momentum": 0.5},
    "nesterov": {"momentum": 0.5, "nesterov": True},
    "step": {"step": "l2"},
    "step_size": {"step_size": 5},
    "learning_rate": {"step": "adam", "step_size": None, "learning_rate": 4},
    "start": {"start": "random"},
    "steps": {"steps": 3},
    "checkpoints": {"checkpoints": [1]},
    "views": {"views": [{"smoothing": {"copies": 2}}]},
    "points": {"points": ["variance"]},
    "updates": {"updates": [{"momentum": 0.25}]},
    "penalties": {"penalties": [{"distance": {"rmsd": 9}}]},
    "backward": {"backward": [{"skip_gradient": 0.25}]},
    "forward": {},
    "program": {},
    "first": {},
    "tune": {},
    "external": {},
    "budget": {"budget": {"epsilon": 17}},
    "precomputed": {},
}
"""Another value of every field. `precomputed` is a folder; the digests of its files stand in the id in its place.
Forward changes, programs, first stages and attacks of other libraries are tried elsewhere; `tune` is replaced by what
it chose."""

NUMERICS = {
    "batch": 3,
    "threads": 2,
    "max_pass_images": 64,
    "fold": False,
    "layout": "contiguous",
    "precision": "bfloat16",
    "compile": True,
    "target_precision": "tf32",
    "deterministic": False,
}

IMAGES = {
    "size": 52,
    "fit": "squash",
    "channels": 1,
}
"""What changes the pixels that models are shown, beside the files themselves, whose pixels have digests in the ids."""

IMAGES_OTHERWISE = {
    **dict.fromkeys(ImageSet.PLACES, "where data lies: pixels and labels are in units' ids"),
    **dict.fromkeys(
        ("sample", "split", "keep", "count", "draw", "targets", "corrupt"), "which images: they are in units' ids"
    ),
    "labels": "what labels mean: models' digests have their outputs' order, and a run folder has one label set",
}

ELSEWHERE = {
    CraftJob: {
        "attack": "the recipe, in the craft's id",
        "goal": "in the craft's id",
        "key": "seed, sources, attack and goal, in the craft's id",
        "images": "in the unit's id",
        "labels": "those of the goal, in the unit's id",
        "true_labels": "in the unit's id, where the attack reads them",
        "rmsd": "measured on the reference, whose id is in the craft's id",
        "pool": "images and labels, in the craft's id",
    },
    PredictJob: {
        "targets": "rows are told apart by their target; a run folder has one digest of it",
        "batch": "numerics, in the craft's id",
        "images": "in the unit's id",
        "search": "levels, goal and labels: the recipe and the unit's id",
        "truth": "labels and clean answers by which a service is judged: no pixel",
        "probabilities": "no row has them: target labels that were ranked by them are in the unit's id",
    },
    ProbeJob: {"unit": "the id itself", "question": "see ProbeTask"},
    ProbeTask: {
        "name": "in the unit's id",
        "probe": "in the unit's id",
        "models": "in the unit's id",
        "attacks": "in the unit's id",
        "seed": "in the unit's id",
        "attack_seed": "in the unit's id, where attacks draw from it",
        "images": "in the unit's id",
        "labels": "in the unit's id",
        "targets": "in the unit's id",
    },
    Engine: {
        **dict.fromkeys(("batch", "max_pass_images", "layout", "precision"), "numerics, in the craft's id"),
        "device": "recorded with the rows: another one rounds differently",
    },
    WorkerConfig: {
        "models": "by digest in the ids; of a target, in the run folder",
        "labels": "see Images",
        "channels": "the images' preparation, in the craft's id",
        "seed": "draws of transformed targets: a run folder has one",
        "numerics": "in the craft's id",
        "allow_code": "permission: no pixel",
        "code": "the files' digests, in the craft's id",
        "lpips": "no pixel: the values of a column, which a run folder has from one network",
        "gpu_share": "how much memory there is: rows name the passes that it halved",
        "services": " what was answered once is kept for ever",
    },
    Spec: {
        **dict.fromkeys(("study", "run", "tracking", "findings"), "no pixel"),
        "visibility": "no pixel: measures of finished images",
        "format": "what stands in ids, and in the ids itself",
        **dict.fromkeys(("seed", "seeds", "experiments"), "each craft's own, in its id"),
        **dict.fromkeys(("images", "models", "attacks", "geometry", "numerics"), "see there"),
    },
    Model: {
        **dict.fromkeys(
            (
                "network",
                "weights",
                "arguments",
                "size",
                "interpolation",
                "mean",
                "std",
                "channels",
                "range",
                "classes",
                "prompts",
            ),
            "in the model's digest",
        ),
        "model": "becomes that model's own keys",
        "remote": "in the service's digest",
        "sha256": "checked, and the tensors are in the model's digest",
        "transform": "in the digest of the transformed model",
        "role": "says what a model is used for, and changes no pixel",
        "family": "decides which targets are shown, in the spec of the run folder, and changes no pixel",
    },
}
"""Where each field of what workers are given is held."""


def fields(kind):
    return set(kind.model_fields) if hasattr(kind, "model_fields") else {one.name for one in dataclasses.fields(kind)}


@pytest.mark.parametrize("kind", ELSEWHERE, ids=lambda kind: kind.__name__)
def test_every_field_is_known_to_be_identity_or_not(kind):
    assert fields(kind) == set(ELSEWHERE[kind]), (
        "a new field decides pixels, then it belongs into an id, or it does not"
    )


def test_every_part_of_a_spec_is_tried():
    assert fields(Attack) == set(ATTACK)
    assert fields(Numerics) == set(NUMERICS)
    assert fields(ImageSet) == set(IMAGES) | set(IMAGES_OTHERWISE)


@pytest.fixture
def shards(tiny_run):
    return from_frame(pl.read_parquet(tiny_run / "images.parquet"))


def ids(spec, shards, digests="123"):
    """Of its attack runs, and of its probe's units."""
    read = resolve(parse(yaml.safe_dump(spec), "spec")).spec
    known = {name: digit * 64 for name, digit in zip("abc", digests, strict=True)}
    units = GeometryPlan(read, known, shards).units({})
    return set(Plan(read, known, shards).crafts), {unit.id for unit in units}


def changed(section, keys):
    return pytest.param(section, keys, id=f"{section}-{'-'.join(keys)}")


@pytest.mark.parametrize(
    ("section", "keys"),
    [
        *[changed("attack", keys) for keys in ATTACK.values() if keys],
        *[changed("numerics", {key: value}) for key, value in NUMERICS.items()],
        *[changed("images", {key: value}) for key, value in IMAGES.items()],
    ],
)
def test_ids_change(shards, section, keys):
    spec = dict(SPEC)
    if section == "attack":
        one = {key: value for key, value in {**ONE, **keys}.items() if value is not None}
        spec |= {"attacks": {"one": one}}
        if "admix" in keys:
            # Probes have no pool of images.
            del spec["geometry"]
    else:
        spec[section] = SPEC[section] | keys
    crafts, probes = ids(SPEC, shards)
    others = ids(spec, shards)
    assert len(crafts) == len(others[0]) == 2
    assert not crafts & others[0]
    assert not probes & others[1]


def test_ids_change_with_the_digest_of_every_model_that_takes_part(shards):
    crafts, probes = ids(SPEC, shards)
    for digests, left in (("923", 0), ("193", 1), ("129", 2)):
        assert len(crafts & ids(SPEC, shards, digests)[0]) == left
    assert not probes & ids(SPEC, shards, "923")[1]


def test_a_new_component_and_a_new_optional_key_change_no_id(shards):
    """One of each kind is added at run time, and an optional key to a component that a spec uses."""
    spec = SPEC | {"attacks": {"one": ONE | {"views": ["diversity", {"scales": 3}]}}}
    before = ids(spec, shards)
    added = [
        registry.register(type(f"New{kind}", (base,), {"name": "new", "__module__": __name__}))
        for kind, base in KINDS.items()
    ]

    class WiderDiversity(Diversity):
        name = "diversity"
        more: float | None = None

    registry.unregister(Diversity)
    registry.register(WiderDiversity)
    try:
        assert registry.find("view", "diversity") is WiderDiversity
        assert ids(spec, shards) == before
    finally:
        registry.unregister(WiderDiversity)
        registry.register(Diversity)
        for one in added:
            registry.unregister(one)


def test_another_version_is_another_id(shards, monkeypatch):
    before, _ = ids(SPEC | {"attacks": {"one": ONE | {"diversity": {}}}}, shards)
    monkeypatch.setattr(Diversity, "version", Diversity.version + 1)
    after, _ = ids(SPEC | {"attacks": {"one": ONE | {"diversity": {}}}}, shards)
    assert not before & after


def test_another_librarys_attack_is_in_the_id(shards):
    """Its library, version, name, arguments and budget."""

    def craft(**changed):
        keys = {"external": {"external": "torchattacks:PIFGSM", "arguments": {}, "version": "1"}, "epsilon": 8}
        inner = keys["external"] | changed.pop("external", {})
        one = keys | {"external": inner} | changed
        # A probe's direction is an attack of this program.
        spec = {key: value for key, value in SPEC.items() if key != "geometry"} | {"attacks": {"one": one}}
        return ids(spec, shards)[0]

    before = craft()
    others = [
        craft(epsilon=9),
        craft(external={"external": "torchattacks:MIFGSM"}),
        craft(external={"arguments": {"steps": 3}}),
        craft(external={"version": "2"}),
    ]
    assert craft() == before
    assert all(not before & other for other in others)
