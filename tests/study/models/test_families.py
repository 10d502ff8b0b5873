"""Families: which networks are kin, and experiments that leave the kin of their sources out."""

from __future__ import annotations

import pytest
import timm
import torchvision
import yaml

from study.errors import StudyError
from study.models import Model, memory
from study.models.catalogue import SHORT_NAMES
from study.models.families import SAME_ARCHITECTURE, architecture, family
from study.planning.plan import Plan
from study.planning.relation import relation
from study.spec.loading import read_resolved, resolve
from study.spec.yaml_document import parse
from tests.conftest import TINY

KIN = [
    ("resnet", "resnet50", "resnet152.a1_in1k", "wide_resnet50_2", "resnext101_32x8d", "resnetv2_50x1_bit"),
    ("vit", "vit_b_16", "vit_base_patch16_224.mae", "deit_base_patch16_224", "deit3_base_patch16_224"),
    ("inception", "inception_v3.tf_adv_in1k", "inceptionv4", "googlenet", "inception_resnet_v2"),
    ("swin", "swin_t", "swinv2_base_window8_256", "swin_base_patch4_window7_224"),
    ("senet", "legacy_senet154", "se_resnet50", "seresnext50_32x4d", "senet154"),
    ("efficientnet", "tf_efficientnet_lite0", "efficientnet_v2_m", "tf_efficientnetv2_m.in1k"),
    ("mobilenet", "mobilenet_v2", "mobilenetv3_large_100", "mnasnet1_0"),
    ("vgg", "vgg16", "vgg19_bn"),
    ("densenet", "densenet121"),
    ("convnext", "convnext_base.fb_in1k", "convnextv2_tiny"),
]  # fmt: skip


@pytest.mark.parametrize("names", KIN, ids=lambda names: names[0])
def test_kin(names):
    word, *networks = names
    assert [family(one) for one in networks] == [word] * len(networks)


def test_most_networks_of_the_zoos_have_a_family_and_every_short_name_has_one():
    known = {word for word, *_ in KIN} | {"mixer", "beit", "pit", "visformer", "cait", "levit", "convit", "squeezenet"}
    known |= {"alexnet", "cnn", "fully connected"}
    found = {name: family(short["network"].partition(":")[2]) for name, short in SHORT_NAMES.items()}
    assert set(found.values()) == known
    for name in [*timm.list_models(), *torchvision.models.list_models(module=torchvision.models)]:
        assert family(name) == family(name.upper())


@pytest.mark.parametrize(
    ("left", "right"),
    [("vit_b_16", "vit_base_patch16_224"), ("mobilenet_v2", "mobilenetv2_100"), ("inceptionv3", "inception_v3"),
     ("swin_t", "swin_tiny_patch4_window7_224"), ("senet154", "legacy_senet154")],
)  # fmt: skip
def test_one_architecture_under_two_names_is_grey(left, right):
    zoo = "pretrainedmodels" if left in ("inceptionv3", "senet154") else "torchvision"
    models = {
        "a": Model.model_validate({"network": f"{zoo}:{left}", "weights": "random:0"}),
        "b": Model.model_validate({"network": f"timm:{right}", "weights": "random:0"}),
        "c": Model.model_validate({"network": "timm:vgg16", "weights": "random:0"}),
    }
    assert architecture(left) == architecture(right)
    assert relation(models, ["a"], "b") == relation(models, ["b"], "a") == "grey"
    assert relation(models, ["a"], "c") == "black"


@pytest.mark.parametrize("ours", ["vit_b_32", "swin_t", "mobilenet_v2", "mnasnet1_0"])
def test_two_names_of_one_architecture_have_one_size(ours):
    counts = [
        memory.parameters(memory.build_meta(Model.model_validate({"network": network, "weights": "random:0"})))
        for network in (f"torchvision:{ours}", f"timm:{SAME_ARCHITECTURE[ours]}")
    ]
    assert counts[0] == counts[1]


MODELS = {
    "r18": {"network": "timm:resnet18", "weights": "random:0"},
    "r34": {"network": "timm:resnet34", "weights": "random:1"},
    "r18-jpeg": {"model": "r18", "transform": {"jpeg": 75}},
    "vgg": {"network": "timm:vgg11", "weights": "random:2"},
    "mine": {"network": "python:nets.py:make", "family": "resnet"},
    "other": {"network": "python:nets.py:make"},
}


def spec_of(targets, sources=("r18", "vgg"), **models):
    given = yaml.safe_load(TINY) | {
        "models": MODELS | models,
        "attacks": {"fgsm": {}},
        "experiments": {"x": {"attacks": ["fgsm"], "sources": list(sources), "targets": targets}},
    }
    return resolve(parse(yaml.safe_dump(given, sort_keys=False), "spec")).spec


def shown(spec):
    plan = Plan(spec, dict.fromkeys(spec.models, "0" * 64), [])
    return {craft.sources: craft.targets for craft in plan.crafts.values()}


def test_the_kin_of_the_sources_are_no_targets():
    spec = spec_of({"not-family-of": "sources"})
    assert shown(spec) == {
        ("r18",): ("vgg", "other"),
        ("vgg",): ("r18", "r34", "r18-jpeg", "mine", "other"),
    }
    assert spec.targets(spec.experiments["x"]) == tuple(MODELS)
    assert spec.kin_left_out(spec.experiments["x"])["r18",] == ("r18", "r34", "r18-jpeg", "mine")
    assert read_resolved(spec.text(), "again").experiments == spec.experiments


def test_an_ensemble_has_the_kin_of_all_its_models():
    assert shown(spec_of({"not-family-of": "sources"}, [["r34", "vgg"]])) == {("r34", "vgg"): ("other",)}


def test_kin_of_named_models_and_families_and_a_choice_of_models():
    assert shown(spec_of({"not-family-of": ["vgg"]}, ["r18"])) == {
        ("r18",): ("r18", "r34", "r18-jpeg", "mine", "other")
    }
    assert shown(spec_of({"not-family-of": ["resnet"], "among": ["r34", "vgg"]}, ["r18"])) == {("r18",): ("vgg",)}
    assert shown(spec_of(["r34", "vgg"], ["r18"])) == {("r18",): ("r34", "vgg")}


@pytest.mark.parametrize(
    ("targets", "what"),
    [
        ({"not-family-of": "vgs"}, "no model or family named 'vgs'"),
        ({"not-family-of": "sources", "among": ["r34", "r18"]}, "no target is left for the sources r18"),
        ({"among": ["r34"]}, "not-family-of"),
        (["r35"], "no model named 'r35'"),
        ({"not-family-of": "sources", "among": ["r34", "r35"]}, "no model named 'r35'"),
    ],
)
def test_what_cannot_be_is_refused(targets, what):
    with pytest.raises(StudyError, match=what):
        spec_of(targets)


@pytest.mark.parametrize("targets", [["r34", "r35"], {"not-family-of": "sources", "among": ["r34", "r35"]}])
def test_an_unknown_target_is_shown_at_its_line(targets):
    given = yaml.safe_load(TINY) | {
        "models": MODELS,
        "attacks": {"fgsm": {}},
        "experiments": {"x": {"attacks": ["fgsm"], "sources": ["r18"], "targets": targets}},
    }
    text = yaml.safe_dump(given, sort_keys=False)
    (line,) = (number for number, one in enumerate(text.splitlines(), 1) if "r35" in one)
    with pytest.raises(StudyError, match="no model named 'r35'") as caught:
        resolve(parse(text, "spec"))
    assert f"line {line}" in str(caught.value.where)
