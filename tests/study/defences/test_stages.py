"""Defences that are components: each against another computation, and no answer that depends on a batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.fft import dctn, idctn
from scipy.stats import binomtest
from torch import nn
from torch.nn import functional

from study.attacks import own_code, registry
from study.attacks.part import Part
from study.defences.components.smoothing import RandomizedSmoothing, two_sided
from study.defences.conformance import check
from study.defences.diffusion import DiffusionPurifier
from study.defences.kinds import Purifier
from study.defences.stages import Shown, Stages, check_files
from study.defences.transforms import Transforms, apply, summary
from study.errors import StudyError
from study.images.labels import ABSTAINED
from study.models.classifier import Classifier, Preprocessing
from study.models.predict import predict
from study.reproducibility.rng import Streams
from tests.study.defences.test_transforms import photographs

KEY = (3, "target")
INPUT = Preprocessing(16, "bilinear", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def made(given) -> Transforms:
    return Transforms.model_validate(given)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 8, 3, 2), nn.Linear(8 * 49, 7)

    def forward(self, images):
        return self.last(functional.relu(self.conv(images)).flatten(1))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(2)
    return Classifier(Small(), INPUT, labels=7, identity="small")


def ids(count):
    return [f"image-{number}" for number in range(count)]


def shown(pixels, names=None):
    return Shown(pixels, names or ids(len(pixels)), KEY)


# Randomized smoothing


def voted(model, pixels, names, sigma, draws):
    """The votes of each image (N, labels), one image and one draw at a time."""
    counts = np.zeros((len(pixels), model.labels), int)
    for row, (image, name) in enumerate(zip(pixels, names, strict=True)):
        for number in range(draws):
            noise = Streams((*KEY, "transform", 0), [name]).normal(image.shape, "cpu", "smoothing", 0, number)
            with torch.no_grad():
                counts[row, int(model(torch.tensor(image)[None].float() + sigma * noise).argmax())] += 1
    return counts


def test_smoothing_agrees_with_a_naive_loop(model):
    pixels = photographs(5, side=16)
    counts = voted(model, pixels, ids(5), 60, 30)
    assert (counts > 0).sum(1).max() > 1, "the noise decides something"
    stages = Stages(made({"smoothing": {"sigma": 60, "draws": 30, "alpha": 0.05}}), "cpu")
    found = stages.predict(model, shown(pixels), batch=8, whole=True)
    assert found.whole == pytest.approx(counts / 30)
    for row, count in enumerate(counts):
        order = sorted(range(7), key=lambda label: (-count[label], label))
        assert found.top5[row].tolist() == order[:5]
        assert found.top5_prob[row] == pytest.approx(count[order[:5]] / 30)
        first, second = count[order[:2]]
        silent = binomtest(int(first), int(first + second), 0.5).pvalue > 0.05
        assert found.top1[row] == (ABSTAINED if silent else order[0])
    assert found.abstained.any()
    assert not found.abstained.all()
    never = Stages(made({"smoothing": {"sigma": 60, "draws": 30, "alpha": 0}}), "cpu")
    assert (never.predict(model, shown(pixels), batch=8).top1 == found.top5[:, 0]).all()


def test_no_vote_depends_on_batch_or_neighbours_and_versions_share_their_draws(model):
    pixels = photographs(6, side=16)
    stages = Stages(made({"jpeg": 60, "smoothing": {"sigma": 40, "draws": 7}}), "cpu")
    whole = stages.predict(model, shown(pixels), batch=16, whole=True).whole
    order = [4, 1, 5]
    few = stages.predict(model, shown(pixels[order], [ids(6)[one] for one in order]), batch=4, whole=True).whole
    assert (few == whole[order]).all()
    twice = stages.predict(model, Shown(np.concatenate([pixels, pixels]), ids(6), KEY), batch=16, whole=True).whole
    assert (twice == np.concatenate([whole, whole])).all()
    held = stages.predict(model, shown(torch.tensor(pixels)), batch=16, whole=True).whole
    assert (held == whole).all()


@pytest.mark.parametrize(("most", "least"), [(0, 0), (1, 0), (5, 5), (60, 40), (62, 38), (99, 1), (700, 300)])
def test_the_binomial_test_is_scipys(most, least):
    expected = binomtest(most, most + least, 0.5).pvalue if most + least else 1.0
    assert math.isclose(two_sided(most, least), expected, rel_tol=1e-9)


def test_a_network_without_finite_logits_is_named(model):
    broken = Classifier(Small(), INPUT, labels=7, identity="broken")
    with torch.no_grad():
        broken.network.last.bias.fill_(float("nan"))
    with pytest.raises(StudyError, match="mine for image-0, image-1 are not finite"):
        Stages(made({"smoothing": 5}), "cpu").predict(broken, shown(photographs(2, side=16)), batch=4, name="mine")


# Feature distillation


def test_feature_distillation_agrees_with_blocks_one_by_one(model):
    pixels = photographs(2, side=20)
    table = np.full((8, 8), 30.0)
    table[:4, :4] = 25
    padded = np.pad(pixels, ((0, 0), (0, 0), (0, 4), (0, 4)), mode="edge").astype(float)
    expected = np.zeros_like(padded)
    for image, channel, top, left in np.ndindex(2, 3, 3, 3):
        block = np.s_[image, channel, 8 * top : 8 * top + 8, 8 * left : 8 * left + 8]
        expected[block] = idctn(np.rint(dctn(padded[block], norm="ortho") / table) * table, norm="ortho")
    expected = expected[:, :, :20, :20]
    found = Stages(made({"feature-distillation": {}}), "cpu").changed(shown(pixels), 4)
    assert np.abs(found.numpy() - expected.clip(0, 255)).max() < 0.51
    assert (found.numpy() != pixels).mean() > 0.5
    finer = Stages(made({"feature-distillation": {"low": 1, "high": 1}}), "cpu").changed(shown(pixels), 4)
    assert np.abs(finer.numpy().astype(int) - pixels).max() <= 2


# Purifiers: state dicts in the layout of their authors, and their networks written out


def tensors(shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def convolution(name, inputs, outputs):
    return {f"{name}.weight": (outputs, inputs, 3, 3), f"{name}.bias": (outputs,)}


def dense(blocks=2):
    """NRP.pth."""
    shapes = convolution("conv_first", 3, 64) | convolution("trunk_conv", 64, 3)
    for block in range(blocks):
        for inner in (1, 2, 3):
            for number in (1, 2, 3, 4, 5):
                name = f"RRDB_trunk.{block}.RDB{inner}.conv{number}"
                shapes |= convolution(name, 64 + 32 * (number - 1), 64 if number == 5 else 32)
    return tensors(shapes)


def run_dense(state, images, blocks=2):
    def conv(name, given):
        return functional.conv2d(given, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)

    held = conv("conv_first", images)
    for block in range(blocks):
        begun = held
        for inner in (1, 2, 3):
            name, known = f"RRDB_trunk.{block}.RDB{inner}", [held]
            for number in (1, 2, 3, 4):
                known.append(functional.leaky_relu(conv(f"{name}.conv{number}", torch.cat(known, 1)), 0.2))
            held = 0.2 * conv(f"{name}.conv5", torch.cat(known, 1)) + held
        held = 0.2 * held + begun
    return conv("trunk_conv", held)


def residual(blocks=2):
    """NRP_resG.pth."""
    shapes = convolution("conv_first", 3, 64) | convolution("conv_last", 64, 3)
    for block in range(blocks):
        for number in (1, 2):
            shapes |= convolution(f"recon_trunk.{block}.conv{number}", 64, 64)
    return tensors(shapes)


def run_residual(state, images, blocks=2):
    def conv(name, given):
        return functional.conv2d(given, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)

    held = functional.leaky_relu(conv("conv_first", images), 0.1)
    for block in range(blocks):
        name = f"recon_trunk.{block}"
        held = held + conv(f"{name}.conv2", conv(f"{name}.conv1", held).relu())
    return conv("conv_last", held)


@pytest.mark.parametrize(
    ("architecture", "state", "run"), [("dense", dense, run_dense), ("residual", residual, run_residual)]
)
def test_nrp_reads_its_authors_files(tmp_path, architecture, state, run):
    path, tensors_ = tmp_path / "NRP.pth", state()
    torch.save({f"module.{name}": value for name, value in tensors_.items()}, path)
    given = {"nrp": {"weights": f"file:{path}", "architecture": architecture, "blocks": 2}}
    check_files(made(given))
    pixels = photographs(3, side=16)
    found = Stages(made(given), "cpu").changed(shown(pixels), 4)
    expected = 255 * run(tensors_, torch.tensor(pixels) / 255)
    assert (found.float() - expected.clamp(0, 255)).abs().max() < 0.51
    alone = Stages(made(given), "cpu").changed(shown(pixels[1:2], ids(3)[1:2]), 16)
    assert (alone[0].int() - found[1].int()).abs().max() <= 1, "passes of another size may round otherwise"
    noisy = Stages(made({"nrp": {**given["nrp"], "dynamic": True}}), "cpu")
    assert (noisy.changed(shown(pixels), 4) != found).any()
    assert (noisy.changed(shown(pixels), 4) == noisy.changed(shown(pixels), 4)).all()


DOWN, UP = ((64, 2), (128, 3), (256, 3), (256, 3), (256, 3)), ((64, 2), (128, 3), (256, 3), (256, 3))


def guided(prefix):
    """A file of HGD: a classifier that holds its denoiser, without the counters of later batch norms."""
    shapes, inputs = {}, 3

    def layer(name, inputs, outputs):
        norm = {f"{name}.bn.{one}": (outputs,) for one in ("weight", "bias", "running_mean", "running_var")}
        return {f"{name}.conv.weight": (outputs, inputs, 3, 3), **norm}

    for level, (outputs, layers) in enumerate(DOWN):
        for number in range(layers):
            shapes |= layer(f"{prefix}fwd.{level}.{number}", inputs, outputs)
            inputs = outputs
    for level in (3, 2, 1, 0):
        inputs += DOWN[level][0]
        for number in range(UP[level][1]):
            shapes |= layer(f"{prefix}back.{level}.{number}", inputs, UP[level][0])
            inputs = UP[level][0]
    shapes |= {f"{prefix}final.weight": (3, 64, 1, 1), "net.classif.weight": (1001, 2048), "net.classif.bias": (1001,)}
    state = tensors(shapes)
    return {name: value.abs() + 0.5 if "running_var" in name else value for name, value in state.items()}


def run_guided(state, prefix, images):
    def layer(name, given, stride):
        made = functional.conv2d(given, state[f"{name}.conv.weight"], stride=stride, padding=1)
        norm = (state[f"{name}.bn.{one}"] for one in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(made, *norm).relu()

    held, known = images, []
    for level, (_, layers) in enumerate(DOWN):
        for number in range(layers):
            held = layer(f"{prefix}fwd.{level}.{number}", held, 2 if level and not number else 1)
        known.append(held)
    for level in (3, 2, 1, 0):
        held = functional.interpolate(held, known[level].shape[2:], mode="bilinear", align_corners=True)
        held = torch.cat([held, known[level]], 1)
        for number in range(UP[level][1]):
            held = layer(f"{prefix}back.{level}.{number}", held, 1)
    return images + functional.conv2d(held, state[f"{prefix}final.weight"])


@pytest.mark.parametrize("prefix", ["net.denoise.", "net.denoise.0."])
def test_hgd_reads_the_denoiser_in_its_authors_files(tmp_path, prefix):
    path, state = tmp_path / "denoise.ckpt", guided(prefix)
    torch.save({"epoch": 14, "state_dict": state}, path)
    given = {"hgd": {"weights": f"file:{path}", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}}
    check_files(made(given))
    pixels = photographs(1, side=19)
    found = Stages(made(given), "cpu").changed(shown(pixels), 4)
    mean, std = (torch.tensor(given["hgd"][one]).view(1, 3, 1, 1) for one in ("mean", "std"))
    expected = 255 * (run_guided(state, prefix, (torch.tensor(pixels) / 255 - mean) / std) * std + mean)
    assert (found.float() - expected.clamp(0, 255)).abs().max() < 0.51
    assert (found.numpy() != pixels).mean() > 0.05


def test_files_that_are_missing_or_do_not_fit_are_found_before_a_launch(tmp_path):
    with pytest.raises(StudyError, match="does not exist"):
        check_files(made({"nrp": "file:nowhere.pth"}))
    torch.save(residual(), tmp_path / "resG.pth")
    with pytest.raises(StudyError, match="missing"):
        check_files(made({"nrp": {"weights": f"file:{tmp_path}/resG.pth", "blocks": 2}}))


# Diffusion


class Known(DiffusionPurifier):
    """A model that knows the image without noise: the noise that it predicts is the noise that is there."""

    name = "known"

    value: float = 0.25

    def noise(self, images, step, given):
        kept = torch.tensor(np.cumprod(1 - np.linspace(self.first, self.last, self.steps)))[step].view(-1, 1, 1, 1)
        return ((images - kept.sqrt() * self.value) / (1 - kept).sqrt()).float()


def test_a_diffusion_model_that_knows_the_image_brings_it_back():
    registry.register(Known)
    try:
        given = made({"known": {"t": 20, "value": 0.25}})
        found = Stages(given, "cpu").changed(shown(photographs(3, side=16)), 4)
        assert (found == round((0.25 + 1) * 127.5)).all()
        with pytest.raises(ValueError, match="`t` is 30, and the schedule has 20 steps"):
            Known(t=30, steps=20)
    finally:
        registry.unregister(Known)


NOISE = '''
import torch
from study.defences.diffusion import DiffusionPurifier
from study.defences.kinds import Vote


class Mine(DiffusionPurifier):
    """A DDPM that predicts noise, and a variance after it."""

    name = "mine"

    def network(self):
        return Net()


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 6, 3, padding=1)

    def forward(self, images, step):
        return self.conv(images) * (1 + step.view(-1, 1, 1, 1) / 1000)
'''


@pytest.fixture
def own(tmp_path):
    (tmp_path / "mine.py").write_text(NOISE)
    reference = f"{tmp_path}/mine.py:Mine"
    part, file = own_code.sealed(Part(kind="defence", python=reference, parameters={"t": 12}), "models.m", allowed=True)
    return made([{"jpeg": 90}, part.written()]), file


def test_a_users_diffusion_model_samples_as_ddpm_does(own):
    transforms, _ = own
    pixels = photographs(3, side=16)
    found = Stages(transforms, "cpu").changed(shown(pixels), 4)
    compressed = apply(made({"jpeg": 90}), pixels, [(*KEY, one) for one in ids(3)])
    betas = np.linspace(1e-4, 0.02, 1000)
    kept = np.cumprod(1 - betas)
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 6, 3, padding=1).requires_grad_(False)
    for row, name in enumerate(ids(3)):
        streams = Streams((*KEY, "transform", 1), [name])
        noise = streams.normal((3, 16, 16), "cpu", "mine", 0, 12)
        held = kept[11] ** 0.5 * (torch.tensor(compressed[row : row + 1]) / 127.5 - 1) + (1 - kept[11]) ** 0.5 * noise
        for step in range(11, -1, -1):
            guess = conv(held.float())[:, :3] * (1 + step / 1000)
            left, before = kept[step], kept[step - 1] if step else 1.0
            clean = ((held - (1 - left) ** 0.5 * guess) / left**0.5).clamp(-1, 1)
            held = (before**0.5 * betas[step] * clean + (1 - betas[step]) ** 0.5 * (1 - before) * held) / (1 - left)
            if step:
                noise = streams.normal((3, 16, 16), "cpu", "mine", 0, step)
                held = held + (betas[step] * (1 - before) / (1 - left)) ** 0.5 * noise
        expected = ((held[0] + 1) * 127.5).clamp(0, 255)
        assert (found[row] - expected).abs().max() < 0.52
    assert (found.numpy() != compressed).mean() > 0.5


def test_what_a_spec_says_is_written_back_and_has_an_identity_without_places(own):
    transforms, _ = own
    assert made(transforms.model_dump(mode="json")) == transforms
    both = [made({"nrp": {"weights": f"file:{folder}/a.pth"}}) for folder in ("here", "there")]
    assert both[0].identity() == both[1].identity() != made({"nrp": {"weights": "file:a.pth", "blocks": 3}}).identity()
    assert made({"jpeg": 75}).identity() == {"jpeg": 75}
    assert summary(made({"jpeg": 75, "smoothing": {"sigma": 12.5}})) == "jpeg 75, smoothing sigma 12.5"
    assert summary(made({"nrp": "file:a.pth"})) == "nrp weights a.pth"


def test_a_purifiers_weights_are_in_the_digest(tmp_path):
    found = set()
    for seed in (0, 1):
        state = {name: value + seed for name, value in residual(1).items()}
        torch.save(state, tmp_path / f"{seed}.pth")
        given = {"nrp": {"weights": f"file:{tmp_path}/{seed}.pth", "architecture": "residual", "blocks": 1}}
        found.add(Stages(made(given), "cpu").digest)
    assert len(found) == 2
    assert Stages(made({"jpeg": 75, "feature-distillation": {}}), "cpu").digest is None


def test_a_users_class_runs_only_where_it_is_loaded(own, tmp_path):
    transforms, file = own
    (part,) = transforms.parts
    assert Stages(transforms, "cpu").digest
    other = part.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(StudyError, match="is not loaded"):
        Stages(made(other.written()), "cpu")
    own_code.install([("defence", file)])


def test_a_users_class_that_is_loaded_but_of_no_use_is_not_called_unloaded(tmp_path):
    (tmp_path / "mine.py").write_text("from study.defences.kinds import Defence\n\n\nclass Mine(Defence):\n    pass\n")
    reference = f"{tmp_path}/mine.py:Mine"
    part, _ = own_code.sealed(Part(kind="defence", python=reference), "models.m", allowed=True)
    with pytest.raises(StudyError) as caught:
        Stages(made(part.written()), "cpu")
    assert str(caught.value) == (
        f"'{reference}' is neither a purifier nor a vote\n"
        "  accepted: a defence that derives from `Purifier` or from `Vote`"
    )


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"smoothing": {"sigma": 0}}, "greater than 0"),
        ({"smoothing": {"copies": 3}}, "Extra inputs"),
        ({"nrp": {}}, "Field required"),
        ({"nrp": "NRP.pth"}, "match pattern"),
        ({"smothing": 3}, "'smothing' is not a transform"),
        ({"python": "mine"}, "names no class in a file"),
    ],
)
def test_what_cannot_be_is_refused(given, what):
    with pytest.raises(ValidationError, match=what):
        made(given)


def test_a_vote_is_the_last_stage(model):
    with pytest.raises(StudyError, match="not the last stage"):
        Stages(made([{"smoothing": 5}, {"jpeg": 75}]), "cpu")


def test_plain_stages_alone_are_what_they_were(model):
    pixels = photographs(3, side=16)
    given = made([{"noise": 9}, {"resize-pad": 20}])
    keys = [(*KEY, one) for one in ids(3)]
    before = predict(model, apply(given, pixels, keys), batch=4)
    found = Stages(given, "cpu").predict(model, shown(pixels), batch=4)
    assert (found.top5 == before.top5).all()
    assert (found.top5_prob == before.top5_prob).all()
    assert found.abstained is None


class Shifted(Purifier):
    """Depends on its neighbours."""

    name = "shifted"

    def purified(self, images, given):
        return images - images.mean()


def test_conformance_finds_what_depends_on_neighbours():
    found = {one.check: one.fault for one in check(registry.find("defence", "feature-distillation")())}
    assert set(found.values()) == {""}
    assert set({one.check: one.fault for one in check(RandomizedSmoothing(sigma=5, draws=3))}.values()) == {""}
    broken = {one.check: one.fault for one in check(Shifted())}
    assert "differs by" in broken["the batch changes nothing"]
