"""Captured and changed layers against networks written out by hand, and what a context leaves behind."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from study.errors import StudyError
from study.models import Model, loading
from study.models.classifier import Classifier, Preprocessing
from study.models.features import captured, changed_backward, changed_forward, output_shapes
from study.models.functions import changed_functions
from study.models.layers import layers_of
from study.models.visible_attention import visible_attention
from tests.study.models.layers.small import images, network


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return network("torchvision:resnet18")


def stem(built, x):
    return built.maxpool(built.relu(built.bn1(built.conv1(x))))


def rest(built, features):
    return built.fc(built.avgpool(built.layer4(built.layer3(features))).flatten(1))


def gradient(built, x, loss=None) -> torch.Tensor:
    x = x.detach().requires_grad_()
    logits = built(x)
    value = functional.cross_entropy(logits, torch.arange(len(x))) if loss is None else loss(logits)
    return torch.autograd.grad(value, x)[0]


def close(given, wanted, rounding=1e-5) -> bool:
    return bool((given - wanted).abs().max() <= rounding * wanted.abs().max())


def state(built) -> dict:
    """All that a context could leave behind: hooks of every kind, forward methods, children, tensors, modes."""
    found = {}
    for name, module in built.named_modules():
        held = {key: list(value.items()) for key, value in vars(module).items() if key.endswith("_hooks")}
        found[name] = (held, vars(module).get("forward"), list(module._modules), module.training)
    return {"modules": found, "tensors": {key: one.data_ptr() for key, one in built.state_dict().items()}}


def test_captured_outputs_are_those_of_the_layers_by_hand(resnet):
    x = images("torchvision:resnet18")
    names = ["layer1.0.bn2", "layer2", "layer3.1.conv1", "fc"]
    with captured(resnet, names) as features, torch.no_grad():
        logits = resnet(x)
    with torch.no_grad():
        first = stem(resnet, x)
        block = resnet.layer1[0]
        assert torch.equal(features["layer1.0.bn2"], block.bn2(block.conv2(block.bn1(block.conv1(first)).relu())))
        second = resnet.layer2(resnet.layer1(first))
        assert torch.equal(features["layer2"], second)
        assert torch.equal(features["layer3.1.conv1"], resnet.layer3[1].conv1(resnet.layer3[0](second)))
        assert torch.equal(features["fc"], rest(resnet, second))
        assert torch.equal(logits, resnet(x))
    assert list(features) == names
    assert len(features) == 4


def test_captured_outputs_have_gradients_in_both_directions(resnet):
    x = images("torchvision:resnet18").requires_grad_()
    with captured(resnet, ["layer2"]) as features:
        logits = resnet(x)
    by_feature = torch.autograd.grad(logits[:, 3].sum(), features["layer2"], retain_graph=True)[0]
    by_image = torch.autograd.grad(features["layer2"].square().sum(), x)[0]
    second = resnet.layer2(resnet.layer1(stem(resnet, x)))
    again = second.detach().requires_grad_()
    assert close(by_feature, torch.autograd.grad(rest(resnet, again)[:, 3].sum(), again)[0])
    assert close(by_image, torch.autograd.grad(second.square().sum(), x)[0])


def test_each_pass_replaces_what_was_captured(resnet):
    x = images("torchvision:resnet18")
    with captured(resnet, ["layer1"]) as features, torch.no_grad():
        assert "layer1" not in features
        resnet(x)
        first = features["layer1"]
        resnet(x[:1])
        assert len(features["layer1"]) == 1
        assert torch.equal(features["layer1"], first[:1]) or close(features["layer1"], first[:1])


def test_changed_forward_is_the_network_with_another_layer(resnet):
    x = images("torchvision:resnet18").requires_grad_()
    noise = torch.randn(1, 128, 8, 8, generator=torch.Generator().manual_seed(5))
    with changed_forward(resnet, {"layer2": lambda f: 0.1 * f + 0.9 * noise}):
        logits = resnet(x)
        given = gradient(resnet, x)
    second = 0.1 * resnet.layer2(resnet.layer1(stem(resnet, x))) + 0.9 * noise
    by_hand = rest(resnet, second)
    assert torch.equal(logits, by_hand)
    wanted = torch.autograd.grad(functional.cross_entropy(by_hand, torch.arange(2)), x)[0]
    assert close(given, wanted)
    assert not close(given, gradient(resnet, x), 0.1)


def test_functions_run_in_the_order_of_the_network_each_time(resnet):
    calls = []

    def note(name):
        return lambda f: calls.append(name) or f

    with changed_forward(resnet, {name: note(name) for name in ("fc", "layer1.0.relu", "layer3")}), torch.no_grad():
        resnet(images("torchvision:resnet18"))
        resnet(images("torchvision:resnet18"))
    assert calls == ["layer1.0.relu", "layer1.0.relu", "layer3", "fc"] * 2


@pytest.mark.parametrize("of", ["output", "input"])
def test_changed_backward_scales_one_path(resnet, of):
    """At a branch's end, as the Skip Gradient Method; at the input of its first convolution, the skip is untouched."""
    x = images("torchvision:resnet18")
    name = "layer2.1.bn2" if of == "output" else "layer2.1.conv1"
    with changed_backward(resnet, {name: lambda g: 0.25 * g}, of=of):
        given = gradient(resnet, x)

    class ByHand(nn.Module):
        def forward(self, x):
            z = resnet.layer2[0](resnet.layer1(stem(resnet, x)))
            block = resnet.layer2[1]
            f = block.bn2(block.conv2(block.bn1(block.conv1(z)).relu()))
            return rest(resnet, ((0.25 * f + 0.75 * f.detach()) + z).relu())

    assert close(given, gradient(ByHand(), x))
    assert not close(given, gradient(resnet, x), 0.05)
    with changed_backward(resnet, {name: lambda g: 0.25 * g}, of=of), torch.no_grad():
        inside = resnet(x)
    with torch.no_grad():
        assert torch.equal(inside, resnet(x))


class Doubled(nn.Module):
    """A layer that returns its input: y = a(x) + x, where a is nothing but an Identity."""

    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Identity()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        return (self.same(x) * 3 + x * 5 + self.act(x * 7)).sum((1, 2, 3))[:, None]


@pytest.mark.parametrize(
    ("name", "of", "wanted"), [("same", "output", 12.0), ("same", "input", 12.0), ("act", "input", 15.0)]
)
def test_a_gradient_is_changed_on_its_own_path_only(name, of, wanted):
    """Of 3 + 5 + 7 = 15 where x > 0; the path through `same` counts for nothing, then."""
    x = torch.rand(1, 1, 2, 2) + 1
    factor = 0.0 if name == "same" else 1.0
    with changed_backward(Doubled(), {name: lambda g: factor * g}, of=of):
        pass
    built = Doubled()
    with changed_backward(built, {name: lambda g: factor * g}, of=of):
        found = gradient(built, x, lambda logits: logits.sum())
    assert torch.equal(found, torch.full_like(x, wanted))


def test_an_image_does_not_depend_on_its_neighbours(resnet):
    """With changes that act per row, up to the rounding of a convolution over another batch, in double precision."""
    built = copy.deepcopy(resnet).double()
    x = images("torchvision:resnet18", 3).double()
    forward = {"layer2": lambda f: f + f.mean((1, 2, 3), keepdim=True)}
    backward = {"layer3": lambda g: g / g.abs().mean((1, 2, 3), keepdim=True)}

    def loss(logits):
        return logits[:, 3].sum()

    with changed_forward(built, forward), changed_backward(built, backward):
        together = gradient(built, x, loss)
        alone = torch.cat([gradient(built, x[i : i + 1], loss) for i in range(3)])
    assert close(together, alone, 1e-9)


def same(call, *given, **options):
    return call(*given, **options)


CONTEXTS = {
    "captured": captured,
    "forward": lambda built, names: changed_forward(built, dict.fromkeys(names, torch.neg)),
    "backward": lambda built, names: changed_backward(built, dict.fromkeys(names, torch.neg)),
    "backward of inputs": lambda built, names: changed_backward(built, dict.fromkeys(names, torch.neg), of="input"),
    "functions": lambda built, names: changed_functions(built, {"gelu": same}, within=names, after="patch_embed"),
    "attention": lambda built, names: visible_attention(built),
}


@pytest.mark.parametrize("kind", CONTEXTS)
def test_contexts_leave_nothing_behind(kind):
    built = network("timm:vit")
    names = ["blocks.0.mlp", "blocks.1.mlp"]
    x = images("timm:vit")
    before, plain = state(built), gradient(built, x)
    with CONTEXTS[kind](built, names):
        gradient(built, x)
        assert state(built) != before
    assert state(built) == before
    with pytest.raises(ZeroDivisionError), CONTEXTS[kind](built, names):
        gradient(built, x, lambda logits: 1 / 0)
    assert state(built) == before
    with pytest.raises(RuntimeError), CONTEXTS[kind](built, names):
        built(torch.zeros(1, 7, 64, 64))
    assert state(built) == before
    with pytest.raises(StudyError), CONTEXTS[kind](built, names), captured(built, ["nowhere"]):
        pass
    assert state(built) == before
    assert torch.equal(gradient(built, x), plain)


def test_nested_contexts_and_their_own_forward_methods():
    """pretrainedmodels gives networks forward methods of their own, which a context must give back."""
    built = copy.deepcopy(network("timm:vit"))
    own = built.forward
    vars(built)["forward"] = own
    before = state(built)
    with (
        visible_attention(built) as maps,
        changed_functions(built, {"gelu": same}),
        captured(built, maps) as features,
        changed_backward(built, dict.fromkeys(maps, torch.zeros_like)),
    ):
        gradient(built, images("timm:vit"))
        assert len(features[maps[0]]) == 2
    assert state(built) == before
    assert built.forward is own


def test_errors_name_layer_and_remedy(resnet):
    x = images("torchvision:resnet18")
    with pytest.raises(StudyError) as error, captured(resnet, ["layr2"]):
        pass
    assert "no layer 'layr2'" in str(error.value)
    assert "layer2 (the nearest)" in str(error.value)
    with pytest.raises(StudyError, match="runs more than once"), captured(resnet, ["layer1.0.relu"]):
        resnet(x)
    with pytest.raises(StudyError, match="returned shape"), changed_forward(resnet, {"layer1": lambda f: f[:, :3]}):
        resnet(x)
    summed = changed_backward(resnet, {"layer1": lambda g: g.sum()})
    with pytest.raises(StudyError, match="gradient of the output of layer 'layer1' returned shape"), summed:
        gradient(resnet, x)
    with pytest.raises(StudyError, match="only inside `visible_attention`"), captured(resnet, ["layer1.attention_map"]):
        pass
    beit = network("timm:beit")
    negated = changed_forward(beit, {"blocks.0.attn.qkv": torch.neg})
    with pytest.raises(StudyError, match=r"did not run 'blocks\.0\.attn\.qkv'"), negated:
        beit(images("timm:beit"))


def test_a_pair_of_a_tensor_and_nothing_is_that_tensor():
    """As nn.MultiheadAttention returns it."""
    built, name = network("torchvision:vit"), "encoder.layers.encoder_layer_0.self_attention"
    with captured(built, [name]) as features, torch.no_grad():
        built(images("torchvision:vit"))
    assert features[name].shape == (2, 17, 48)


class Pair(nn.Module):
    def forward(self, x):
        return x[:, :1] * 2, x[:, 1:] * 3


class Joins(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()

    def forward(self, x):
        left, right = self.pair(x)
        return (left.sum((1, 2, 3)) + 10 * right.sum((1, 2, 3)))[:, None]


def test_several_tensors_are_one_along_the_channels():
    """As in a dual path network, whose blocks return the residual and the dense path."""
    x, built = torch.rand(2, 3, 2, 2), Joins()
    with captured(built, ["pair"]) as features:
        built(x)
    assert torch.equal(features["pair"], torch.cat([x[:, :1] * 2, x[:, 1:] * 3], 1))
    with changed_forward(built, {"pair": lambda f: f + 1}):
        assert torch.allclose(built(x), Joins()(x) + 4 + 10 * 8)
    with changed_backward(built, {"pair": lambda g: g * torch.tensor([1.0, 0.0, 1.0]).view(1, 3, 1, 1)}):
        found = gradient(built, x, lambda logits: logits.sum())
    assert torch.equal(found, torch.tensor([2.0, 0.0, 30.0]).view(1, 3, 1, 1).expand(2, 3, 2, 2))


def classifier(reference, size=64, **settings) -> Classifier:
    given = {"network": reference, "weights": "random:5", "size": size, **settings}
    return loading.load("m", Model.model_validate(given))


FOLDED = {"timm:tf_efficientnet_lite0": 49, "timm:test_resnet": 0, "torchvision:resnet18": 20}


@pytest.mark.parametrize("reference", FOLDED)
def test_folded_batch_norms_keep_names_and_values(reference):
    """What follows a norm is captured alike; the activations inside timm's norms are still found, and still run."""
    plain, folded = classifier(reference), classifier(reference)
    folded.arrange(fold=True, layout="channels-last", device="cpu")
    assert folded.folded >= FOLDED[reference]
    assert folded.folded
    layers = layers_of(folded)
    assert [one.name for one in layers.activations] == [one.name for one in layers_of(plain).activations]
    assert [branch.name.rpartition(".")[0] for branch in layers.blocks] == [
        branch.name.rpartition(".")[0] for branch in layers_of(plain).blocks
    ]
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2)) * 255
    shapes = output_shapes(folded, pixels, [one.name for one in layers.activations] + [*layers.weighted])
    assert shapes == output_shapes(plain, pixels, list(shapes))
    assert {*layers.weighted, *(one.name for one in layers.activations)} == shapes.keys()
    norms = [name for name, one in plain.network.named_modules() if isinstance(one, nn.BatchNorm2d)]
    with captured(plain, norms) as wanted, captured(folded, norms) as given, torch.no_grad():
        plain(pixels)
        folded(pixels)
    assert all(close(given[name], wanted[name], 1e-4) for name in norms)


def test_folding_leaves_named_layers_alone():
    folded = classifier("torchvision:resnet18")
    folded.arrange(fold=True, layout="channels-last", device="cpu", keep=["layer1.0.conv1", "layer4.1.bn2"])
    kept = {name for name, one in folded.network.named_modules() if isinstance(one, nn.BatchNorm2d)}
    assert kept == {"layer1.0.bn1", "layer4.1.bn2"}
    assert folded.folded == 18


def test_a_context_runs_a_compiled_classifier_uncompiled(monkeypatch):
    """Compiled code would ignore the change; a classifier falls back by itself, also for changes of inputs."""
    built = Classifier(
        network("torchvision:resnet18"),
        Preprocessing(size=64, interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3),
        labels=10,
        identity="test",
    )
    monkeypatch.setattr(torch, "compile", lambda function, **options: lambda pixels: torch.zeros(len(pixels), 10))
    built.compile_with(True)
    pixels = torch.rand(2, 3, 64, 64) * 255
    assert not built(pixels).any()
    contexts = (
        captured(built, ["layer1"]),
        changed_forward(built, {"layer1": lambda f: f * 2}),
        changed_backward(built, {"layer1": lambda g: g * 2}),
        changed_backward(built, {"layer1": lambda g: g * 2}, of="input"),
        changed_functions(built, {"relu": lambda call, x: call(x)}),
    )
    for context in contexts:
        with context, torch.no_grad():
            assert built(pixels).any()
        assert not built(pixels).any()


def test_a_compiled_network_is_refused():
    built = copy.deepcopy(network("torchvision:resnet18"))
    vars(built.layer2)["_compiled_call_impl"] = lambda x: x
    with pytest.raises(StudyError, match="'layer2' is compiled"), captured(built, ["layer3"]):
        pass
