"""LGV and MBA against loops over networks built one by one, with the same order and the same normal numbers."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from study.attacks import Attack, presets
from study.attacks.components.drawn_weights import DrawnWeights
from study.attacks.components.gaussian_weights import GaussianWeights
from study.attacks.components.repeat import Repeat
from study.attacks.conformance import check, counted
from study.attacks.kinds import StepDraws
from study.attacks.loop import Engine, ImageBatch, perturbations
from study.errors import StudyError
from study.models import Model, loading
from study.models.weights.weight_set import WeightSet
from study.reproducibility.rng import of_all_images
from tests.study.attacks.components.ensemble_at import IDS, LABELS, Smooth, clean, loss, naive_gradient

KEY = ("weights",)
SIZE = 2.0


class Learnt(torch.nn.Module):
    """The smooth network with its weights as parameters, and a buffer."""

    def __init__(self, seed):
        super().__init__()
        made = Smooth(seed)
        self.first = torch.nn.Parameter(made.first, requires_grad=False)
        self.second = torch.nn.Parameter(made.second, requires_grad=False)
        self.register_buffer("shift", torch.full((6,), float(seed), dtype=torch.float64))

    def forward(self, pixels):
        return Smooth.forward(self, pixels) * (1 + 0.1 * self.shift)


def source(count):
    """A network with a set of weights, and the networks of the set."""
    each = [Learnt(seed) for seed in range(count)]
    states = [{name: one.clone() for name, one in network.state_dict().items()} for network in each]
    model = Learnt(0)
    model.weight_set = WeightSet(states, ["first", "second"])
    model.weight_set.put(model, model.weight_set.mean)
    return model, each


def found(model, keys, rows=range(4), batch=4):
    attack = Attack.model_validate({"step": "l2", "step_size": SIZE, "epsilon": 16, **keys})
    given = ImageBatch(clean().numpy().astype(np.uint8), LABELS.numpy(), IDS).take(rows)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    engine = Engine(batch=batch, layout="contiguous")
    made = perturbations([model], attack, "untargeted", given, key=KEY, engine=engine, names=("m",))
    deltas = torch.cat([one[-1] for _, one, _ in made])
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    assert not model._forward_pre_hooks
    return deltas


def naive(networks_of_step, steps):
    """Steps along the mean gradient of the networks of each step, normalised, from image to image."""
    wanted = []
    for row, origin in enumerate(clean()):
        delta = torch.zeros_like(origin)
        for step in range(steps):
            delta = torch.minimum(torch.maximum(delta.clamp(-16, 16), -origin), 255 - origin)
            each = [
                naive_gradient(lambda one, net=net, row=row: loss(net(one[None])[0], LABELS[row]), origin + delta)
                for net in networks_of_step(step)
            ]
            mean = sum(each) / len(each)
            delta = delta + SIZE * mean / mean.square().mean().sqrt()
        wanted.append(delta)
    return torch.stack(wanted)


def order(count):
    drawn = StepDraws(of_all_images(KEY), "drawn_weights", "cpu").integers(count)[0].tolist()
    return sorted(range(count), key=drawn.__getitem__)


@pytest.mark.parametrize("batch", [1, 4])
def test_one_of_the_set_in_each_step(batch):
    """Five steps through three weights: each once in random order, then again; the same for all batches."""
    model, each = source(3)
    places = order(3)
    assert places != sorted(places)
    wanted = naive(lambda step: [each[places[step % 3]]], 5)
    # Images are float32 in the engine.
    torch.testing.assert_close(
        found(model, {"steps": 5, "forward": ["drawn_weights"]}, batch=batch).double(), wanted, rtol=0, atol=1e-3
    )


def samples(model, each, count, scale):
    """Networks with mean + scale x deviation x the normal numbers of each parameter."""
    drawn = StepDraws(of_all_images(KEY), "gaussian_weights", "cpu")
    made = []
    for number in range(count):
        network = copy.deepcopy(each[0])
        for name, tensor in network.state_dict().items():
            values = torch.stack([one.state_dict()[name] for one in each])
            tensor.copy_(values.mean(0))
            if name != "shift":
                noise = drawn.normal(tensor.shape, f"{number}.m.{name}")[0].double()
                tensor.add_(scale * values.std(0, correction=0) * noise)
        made.append(network)
    return made


@pytest.mark.parametrize("batch", [1, 4])
def test_the_mean_over_normal_samples(batch):
    model, each = source(3)
    drawn = samples(model, each, 4, 1.5)
    keys = {"steps": 3, "views": [{"repeat": 4}], "forward": [{"gaussian_weights": {"samples": 4}}]}
    wanted = naive(lambda step: drawn, 3)
    torch.testing.assert_close(found(model, keys, batch=batch).double(), wanted, rtol=0, atol=1e-3)


def test_without_copies_each_step_has_the_next_sample():
    model, each = source(2)
    drawn = samples(model, each, 2, 0.5)
    keys = {"steps": 3, "forward": [{"gaussian_weights": {"samples": 2, "scale": 0.5}}]}
    wanted = naive(lambda step: [drawn[step % 2]], 3)
    torch.testing.assert_close(found(model, keys).double(), wanted, rtol=0, atol=1e-3)


def test_the_mean_without_a_change():
    """Another attack takes the gradients of the mean; copies change nothing."""
    model, each = source(3)
    mean = copy.deepcopy(each[0])
    for name, tensor in mean.state_dict().items():
        tensor.copy_(torch.stack([one.state_dict()[name] for one in each]).mean(0))
    wanted = naive(lambda step: [mean], 2)
    for views in ([], [{"repeat": 3}]):
        torch.testing.assert_close(found(model, {"steps": 2, "views": views}).double(), wanted, rtol=0, atol=1e-3)


@pytest.mark.parametrize("component", [DrawnWeights(), GaussianWeights(), Repeat(copies=3)], ids=lambda one: one.name)
def test_each_conforms(component):
    faults = [f"{one.check}: {one.fault}" for one in check(component, size=32) if one.fault]
    assert not faults


def test_a_source_without_a_set_is_refused():
    for name in ("lgv", "mba"):
        keys = {key: one for key, one in presets.keys_of(name, {"steps": 1}).items() if key not in ("step", "epsilon")}
        with pytest.raises(StudyError, match="'m' has no set of weights"):
            found(Learnt(1), keys)


@pytest.mark.parametrize(
    "network", ["timm:test_resnet", pytest.param("timm:test_vit", marks=pytest.mark.slow)], ids=["cnn", "vit"]
)
@pytest.mark.parametrize("name", ["lgv", "mba"])
def test_each_preset_runs(tmp_path, name, network):
    """Two steps with a set of three files: as many gradients as declared, and other pixels than with the mean alone."""
    for seed in range(3):
        one = loading.load("m", Model.model_validate({"network": network, "weights": f"random:{seed}"}))
        state = {key: tensor.contiguous() for key, tensor in one.network.state_dict().items()}
        save_file(state, tmp_path / f"{seed}.safetensors")
    given = {
        "network": network,
        "weights": {"set": f"{tmp_path}/*.safetensors"},
        "role": "source",
        "size": 160 if "vit" in network else 48,
    }
    model = loading.load("m", Model.model_validate(given), fold=True)
    attack = Attack.model_validate(presets.keys_of(name, {"steps": 2}))
    images = ImageBatch(clean().numpy().astype(np.uint8), LABELS.numpy(), IDS)

    def run(attack):
        (made,) = perturbations([model], attack, "untargeted", images, key=KEY, engine=Engine(batch=4), names=("m",))
        return made[1][-1]

    with counted([model]) as rows:
        deltas = run(attack)
    assert rows["gradients"] == 4 * attack.gradients(2, 1) == 4 * 2 * {"lgv": 1, "mba": 20}[name]
    plain = run(Attack.model_validate(presets.keys_of("mi", {"steps": 2})))
    assert (deltas != plain).float().mean() > 0.2
