"""The papers' models by their short names: each exists, with the weights and the input that its zoo records."""

from __future__ import annotations

import csv
from urllib.parse import urlsplit

import pretrainedmodels
import pytest
import timm
import torch
from pydantic import ValidationError
from timm.data import resolve_data_config
from timm.models import get_pretrained_cfg
from torchvision import models as torchvision_models

from study.errors import StudyError
from study.images.labels import label_set
from study.models import Model, catalogue, loading, memory
from study.models.check import check_models
from study.models.classifier import Preprocessing
from study.models.robust_models import ROBUST

WITH_FILES = list(ROBUST)
IN_ZOOS = [
    name
    for name, short in catalogue.SHORT_NAMES.items()
    if not short["network"].startswith("study:") and name not in WITH_FILES
]
OURS = [name for name in catalogue.SHORT_NAMES if name not in (*IN_ZOOS, *WITH_FILES)]

# What the networks take at the least, where 64 pixels are too few.
SMALL = {"inceptionv3": 80, "inceptionv3_adv": 80, "inceptionv4": 80} | {
    name: 80 for name in catalogue.SHORT_NAMES if name.startswith("inceptionresnetv2")
}
SMALL["inceptionv3_tv"] = 80
# Transformers take one size only.
TRANSFORMERS = ("vit_b16", "pit_b", "visformer_s", "swin_t", "vit_b16_augreg", "vit_b32", "deit_s", "deit_b", "deit3_b")
TRANSFORMERS += ("swin_s", "swin_b", "mixer_b16", "beit", "beit_b", "cait_s24", "levit_256", "convit_b")
SMALL |= dict.fromkeys(TRANSFORMERS, 224)


def test_every_model_of_the_papers_has_a_name(shared):
    """All that the three papers' tables name, but those of which it is known that nobody has them."""
    found = set()
    for paper in ("liu2017", "smoothed2019", "sgm2020"):
        with (shared / "published" / f"{paper}.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                if row["metric"] not in ("cosine", "same-mistake"):
                    found |= {*row["sources"].split("+"), row["target"]} - {""}
    missing = {name for name in found if name not in catalogue.SHORT_NAMES}
    # A LeNet is in a paper's text and in none of its tables.
    assert missing == set(catalogue.LEFT_OUT) - {"lenet"}


@pytest.mark.parametrize("name", IN_ZOOS)
def test_weights_exist(name):
    model = Model.model_validate(name)
    loading.check(name, model)
    if model.zoo == "timm":
        assert model.name in timm.list_pretrained()
    else:
        version = "IMAGENET1K_V2" if name == "mobilenetv2" or name.endswith("_v2") else "IMAGENET1K_V1"
        assert model.weights == f"zoo:{version}"
        assert torchvision_models.get_model_weights(model.name)[version].name == version


@pytest.mark.parametrize("name", OURS)
def test_networks_without_weights(name):
    with pytest.raises(StudyError, match="no pretrained weights") as caught:
        loading.check(name, Model.model_validate(name))
    assert "file:<path>" in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if "Swin" in name or "-L" in name else name for name in WITH_FILES],
)
def test_robust_models_need_their_authors_file(name, tmp_path):
    with pytest.raises(ValidationError, match="its authors publish them"):
        Model.model_validate(name)
    drawn = Model.model_validate({"network": name, "weights": "random:0"})
    loading.check(name, drawn)
    wanted = loading.preprocessing_of(drawn, memory.build_meta(drawn), name)
    plain = name == "Chen2024Data_WRN_50_2"
    assert wanted.mean == ((0.0, 0.0, 0.0) if plain else (0.485, 0.456, 0.406))
    assert wanted.std == ((1.0, 1.0, 1.0) if plain else (0.229, 0.224, 0.225))
    assert wanted.size == (288 if name == "Wong2020Fast" else 224)
    assert wanted.scale == 255
    assert 0 < ROBUST[name].robust < ROBUST[name].clean < 100


def test_a_file_of_robustbench_has_its_mean_and_std_beside_the_network(tmp_path):
    """`normalize.mean`, `normalize.std` and the network under `model.`: read, and compared with the spec."""
    network = torchvision_models.resnet18()
    state = {f"model.{key}": value for key, value in network.state_dict().items()}
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    state |= {"normalize.mean": mean.view(1, 3, 1, 1), "normalize.std": std.view(1, 3, 1, 1)}
    torch.save(state, tmp_path / "Salman2020Do_R18.pt")
    given = {"network": "Salman2020Do_R18", "weights": f"file:{tmp_path}/Salman2020Do_R18.pt", "size": 64}
    model = Model.model_validate(given)
    check_models({"robust": model}, label_set("imagenet"), lambda *place: str(place), allow_code=False)
    classifier = loading.load("robust", model)
    pixels = torch.randint(0, 256, (1, 3, 64, 64)).float()
    with torch.no_grad():
        expected = network.eval()((pixels / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    assert torch.allclose(classifier(pixels), expected, atol=1e-4)
    with pytest.raises(StudyError, match=r"need the mean \[0.485, 0.456, 0.406\]"):
        loading.load("robust", Model.model_validate(given | {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}))


@pytest.mark.parametrize("tag", ["timm:vit_base_patch16_224.mae", "timm:convnext_base.clip_laion2b"])
def test_a_tag_without_a_head_is_refused_before_the_launch(tag):
    with pytest.raises(StudyError, match="no classification head"):
        loading.check("m", Model.model_validate(tag))


def published(model: Model) -> Preprocessing:
    """What torchvision and timm say of a network's input, by the ways that they give their users for asking."""
    if model.zoo == "timm":
        config = resolve_data_config(pretrained_cfg=get_pretrained_cfg(model.name).to_dict())
        assert config["input_size"][1] == config["input_size"][2]
        return Preprocessing(config["input_size"][1], config["interpolation"], config["mean"], config["std"])
    preset = torchvision_models.get_model_weights(model.name)[model.tag or "IMAGENET1K_V1"].transforms()
    [size] = preset.crop_size
    return Preprocessing(size, preset.interpolation.value, tuple(preset.mean), tuple(preset.std))


@pytest.mark.parametrize("name", IN_ZOOS)
def test_every_network_is_built_and_its_input_is_what_its_zoo_records(name):
    model = Model.model_validate(name)
    drawn = Model.model_validate({"network": name, "weights": "random:0"})
    assert loading.preprocessing_of(model, memory.build_meta(drawn), name) == published(model)


LARGE = {
    *("resnet101", "resnet152", "densenet161", "densenet169", "densenet201", "senet154"),
    *("vgg11", "vgg13", "vgg16", "vgg19", "vgg13_bn", "vgg16_bn", "vgg19_bn"),
    *("inceptionv3_adv", "inceptionresnetv2_ens_adv", "inceptionresnetv2_ens3"),
    *("vit_b16", "pit_b", "swin_t"),
    *(name for name in TRANSFORMERS if name != "visformer_s"),
    *("convnext_b", "efficientnetv2_m", "inceptionv3_tv", "wide_resnet101_2", "resnext101_32x8d", "wide_resnet50_2"),
    *(name for name in IN_ZOOS if name.endswith("_v2")),
}
"""The large ones of a family, and the same network under another name."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in IN_ZOOS]
)
def test_networks_take_and_give_what_they_should(name):
    """Through the real loader with drawn weights: logits, and a gradient of the image."""
    model = Model.model_validate({"network": name, "weights": "random:0", "size": SMALL.get(name, 64)})
    classifier = loading.load(name, model)
    check_gradient(classifier, classifier.preprocessing.size)


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_ZOOS)
def test_networks_at_their_own_size(name):
    model = Model.model_validate({"network": name, "weights": "random:0"})
    classifier = loading.load(name, model)
    assert classifier.preprocessing == published(model)
    check_gradient(classifier, 224)


def check_gradient(classifier, size) -> None:
    # In float64: signals of untrained networks without normalisation fade beyond what float32 can hold.
    classifier = classifier.double()
    draw = torch.Generator().manual_seed(0)
    for weight in classifier.parameters():
        # Some networks begin with a head of zeros, whose gradient is zero.
        if weight.ndim == 2 and not weight.any():
            weight.data.normal_(generator=draw)
    pixels = torch.randint(0, 256, (2, 3, size, size), generator=draw).double().requires_grad_()
    logits = classifier(pixels)
    assert logits.shape == (2, 1000)
    assert logits.isfinite().all()
    [gradient] = torch.autograd.grad(logits[:, 7].sum(), pixels)
    assert gradient.isfinite().all()
    assert (gradient.abs().amax((1, 2, 3)) > 0).all()


def test_where_the_weights_of_pretrainedmodels_are_now():
    """Every network whose only host is gone: named with what has the same weights, or known to be lost."""
    gone = {
        name
        for name, settings in pretrainedmodels.pretrained_settings.items()
        if any(urlsplit(setting["url"]).hostname == catalogue.GONE_HOST for setting in settings.values())
    }
    lost = {"bninception", "fbresnet152", "cafferesnet101", "nasnetamobile", "polynet"}
    lost |= {"resnext101_32x4d", "resnext101_64x4d"}
    in_timm, in_torchvision = catalogue.PRETRAINEDMODELS_IN_TIMM, catalogue.PRETRAINEDMODELS_IN_TORCHVISION
    assert gone == {*in_timm, *in_torchvision} | lost
    for reference in (*in_timm.values(), *in_torchvision.values()):
        loading.check("m", Model.model_validate(reference))


@pytest.mark.parametrize("network", ["se_resnet50", "se_resnet101", "se_resnet152", "xception"])
def test_timm_names_the_same_file(network):
    """Where timm still says which file it took: that of pretrainedmodels, by the digits of its content."""
    theirs = pretrainedmodels.pretrained_settings[network]["imagenet"]["url"]
    ours = get_pretrained_cfg(catalogue.PRETRAINEDMODELS_IN_TIMM[network].removeprefix("timm:")).url
    assert ours.rsplit("/")[-1] == theirs.rsplit("/")[-1]


@pytest.mark.parametrize(
    ("network", "instead"),
    [
        ("senet154", "timm:legacy_senet154.in1k"),
        ("densenet201", "torchvision:densenet201/IMAGENET1K_V1"),
        ("polynet", "no other zoo has these weights"),
    ],
)
def test_a_host_that_is_gone(network, instead, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    model = Model.model_validate(f"pretrainedmodels:{network}/imagenet")
    for ask in (loading.check, loading.load):
        with pytest.raises(StudyError, match=r"data\.lip6\.fr, which no longer exists") as caught:
            ask("m", model)
        assert instead in str(caught.value)
    name = pretrainedmodels.pretrained_settings[network]["imagenet"]["url"].rsplit("/")[-1]
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    (cache / name).touch()
    loading.check("m", model)
