"""Each part against its paper's formula, written out naively."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from study.attacks import Attack
from study.attacks.components.distance_penalty import DistancePenalty
from study.attacks.components.diversity import Diversity, diversify
from study.attacks.components.kernel import Kernel, convolve, profile
from study.attacks.kinds import Pool
from study.attacks.loop import Engine, ImageBatch, craft, perturbations
from study.attacks.presets import keys_of
from study.attacks.resampling import resized
from study.attacks.views import Views
from study.reproducibility.rng import Streams

LABELS = np.array([1, 2, 3, 4, 5, 6])
IDS = [f"image{index}" for index in range(6)]
KEY = ("parts",)


@pytest.fixture
def model(small_model):
    network = small_model.double()
    yield lambda x: 40 * network(x.double() / 255 - 0.5)
    small_model.float()


def gradient(model, x, labels=LABELS):
    x = x.detach().requires_grad_(True)
    loss = functional.cross_entropy(model(x), torch.from_numpy(labels), reduction="sum")
    return torch.autograd.grad(loss, x)[0].float()


def run(models, keys, clean, goal="untargeted", **more):
    given = ImageBatch(clean, LABELS, IDS)
    options = {"key": KEY, "engine": Engine(batch=6, layout="contiguous")} | more
    return craft(models, Attack.model_validate(keys), goal, given, **options)


def no_gradient(view):
    raise AssertionError("no view here asks for a gradient")


def last_delta(models, keys, clean, **more):
    given = ImageBatch(clean, LABELS, IDS)
    engine = Engine(batch=6, layout="contiguous")
    found = perturbations(models, Attack.model_validate(keys), "untargeted", given, key=KEY, engine=engine, **more)
    return next(found)[1][-1]


@pytest.mark.parametrize("host", [True, False])
@pytest.mark.parametrize("shape", ["uniform", "linear", "gaussian"])
def test_kernel_is_the_printed_sum(shape, host, monkeypatch):
    """Dong et al. 2019, section 3.3, with k = 2, pixel by pixel; sigma = k / sqrt(3). On a CPU, and as on a GPU."""
    monkeypatch.setattr("study.attacks.components.kernel.is_host", lambda device: host)
    image = torch.randn(2, 3, 7, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    k = 2
    weight = {
        "uniform": lambda i, j: 1.0,
        "linear": lambda i, j: (1 - abs(i) / (k + 1)) * (1 - abs(j) / (k + 1)),
        "gaussian": lambda i, j: np.exp(-(i**2 + j**2) / (2 * (k**2 / 3))),
    }[shape]
    table = {(i, j): weight(i, j) for i in range(-k, k + 1) for j in range(-k, k + 1)}
    total = sum(table.values())
    expected = torch.zeros_like(image)
    for row in range(7):
        for column in range(7):
            for (i, j), value in table.items():
                if 0 <= row + i < 7 and 0 <= column + j < 7:
                    expected[:, :, row, column] += value / total * image[:, :, row + i, column + j]
    torch.testing.assert_close(convolve(image, Kernel(shape=shape, size=5)), expected)
    assert profile(Kernel(shape=shape, size=1)).tolist() == [1.0]


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize(("low", "high"), [(1.0, 1.25), (0.75, 1.0), (0.5, 1.5)])
def test_diversity_is_torchs_resize_and_pad(interpolation, low, high):
    """Each image through torch's own interpolate, pad and interpolate again."""
    size = 24
    image = torch.rand(5, 3, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 255
    diversity = Diversity(probability=0.7, low=low, high=high, interpolation=interpolation, padding=100.0)
    words = np.random.default_rng(4).integers(0, 2**64, (5, 4), dtype=np.uint64)
    ours = diversify(image, diversity, torch.from_numpy(words.view(np.int64)))
    frame = max(size, round(high * size))
    changed = 0
    for index, (chance, extent, top, left) in enumerate(words.tolist()):
        expected = image[index : index + 1]
        if chance / 2**64 < 0.7:
            inner = round(low * size) + extent % (round(high * size) - round(low * size))
            more = {} if interpolation == "nearest" else {"align_corners": False}
            expected = functional.interpolate(expected, (inner, inner), mode=interpolation, **more)
            y, x = top % (frame - inner + 1), left % (frame - inner + 1)
            edges = (x, frame - inner - x, y, frame - inner - y)
            expected = functional.pad(expected, edges, value=100.0)
            expected = functional.interpolate(expected, (size, size), mode="bilinear", align_corners=False)
            changed += 1
        torch.testing.assert_close(ours[index : index + 1], expected)
    assert 0 < changed < 5


@pytest.mark.parametrize(
    "keys", [{}, {"padding": 9.0}, {"low": 0.8, "high": 1.0}, {"interpolation": "bilinear"}], ids=str
)
def test_matrices_and_interpolation_resize_alike(monkeypatch, keys):
    """A device makes the matrices number by number: their bits are those of products in float64, rounded to float32."""
    size, diversity = 30, Diversity(probability=0.7, **keys)
    words = np.random.default_rng(6).integers(0, 2**64, (64, 4), dtype=np.uint64)
    given = torch.from_numpy(words.view(np.int64))
    image = torch.rand(64, 3, size, size, generator=torch.Generator().manual_seed(1)) * 255
    low, high = round(diversity.low * size), round(diversity.high * size)
    frame = max(size, high)
    back, matrices = resized(frame, size, "bilinear"), []
    for chance, extent, *places in words.tolist():
        inner = low + extent % max(1, high - low)
        starts = [word % (frame - inner + 1) for word in places]
        resize = resized(size, inner, diversity.interpolation)
        moves = chance / 2**64 < 0.7
        matrices.append([back[:, one : one + inner] @ resize if moves else np.eye(size) for one in starts])
    both = torch.from_numpy(np.array(matrices))
    rows, columns = both.float().unbind(1)
    expected = rows[:, None] @ image @ columns[:, None].mT
    if diversity.padding:
        down, across = both.sum(3).unbind(1)
        expected = expected + 9 * (1 - (down[:, :, None] * across[:, None]).float()[:, None])
    on_host = diversify(image, diversity, given)
    monkeypatch.setattr("study.attacks.components.diversity.is_host", lambda device: False)
    assert torch.equal(diversify(image, diversity, given), expected)
    torch.testing.assert_close(on_host, expected, rtol=0, atol=0.01)  # torch's positions are float32


def test_a_diverse_input_has_at_least_one_pixel():
    words = np.zeros((1, 4), np.int64)
    image = torch.full((1, 3, 28, 28), 9.0)
    seen = diversify(image, Diversity(probability=1, low=0.01, high=1.0, padding=7.0), torch.from_numpy(words))
    assert seen.shape == image.shape
    assert seen[0, 0, 0, 0] == 9
    assert seen[0, 0, 9, 9] == 7


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_the_neighbours_of_an_image_do_not_change_its_diverse_input(interpolation):
    """To the bit, forwards and backwards."""
    words = np.random.default_rng(7).integers(0, 2**64, (9, 4), dtype=np.uint64).view(np.int64)
    image = torch.rand(9, 3, 31, 31, generator=torch.Generator().manual_seed(1)) * 255
    upstream = torch.rand(9, 3, 31, 31, generator=torch.Generator().manual_seed(2))
    found = []
    for rows in (slice(0, 9), slice(2, 7), slice(4, 5)):
        leaf = image[rows].clone().requires_grad_(True)
        seen = diversify(leaf, Diversity(interpolation=interpolation), torch.from_numpy(words[rows]))
        (gradient,) = torch.autograd.grad(seen, leaf, upstream[rows])
        found.append((seen[4 - rows.start].detach(), gradient[4 - rows.start]))
    assert all(torch.equal(one, other) for pair in found[1:] for one, other in zip(pair, found[0], strict=True))


def test_scales_admix_and_noise_are_averaged(model, small_images):
    """SI x admix x smoothing: the mean over every combination of d J(view(x)) / dx, with the streams' own draws."""
    keys = {
        "step": "sign", "steps": 1, "epsilon": 8, "scales": 3, "admix": {"copies": 2, "strength": 0.3, "pool": 4},
        "smoothing": {"copies": 2, "sigma": 9},
    }  # fmt: skip
    attack = Attack.model_validate(keys)
    pool = Pool(small_images[::-1][:4].copy(), LABELS[::-1][:4].copy())
    streams = Streams(KEY, IDS)
    views = Views(attack.assembly.views, streams, LABELS, pool, origin=torch.zeros(6, 3, 1, 1))
    clean = torch.from_numpy(small_images).float()
    total = torch.zeros_like(clean)
    for mixed in range(2):
        others = []
        for label, word in zip(LABELS, streams.integers(1, "admix", 0, mixed)[:, 0].tolist(), strict=True):
            able = [row for row in range(4) if pool.labels[row] != label]
            others.append(pool.pixels[able[word % len(able)]])
        for noisy in range(2):
            noise = streams.normal((3, 12, 12), "cpu", "gaussian", 0, mixed * 2 + noisy)
            for scale in range(3):
                seen = (clean + 0.3 * torch.from_numpy(np.stack(others)).float() + 9 * noise) / 2**scale
                copy = (mixed * 2 + noisy) * 3 + scale
                torch.testing.assert_close(views.make(clean, 0, copy, no_gradient), seen)
                total += gradient(model, seen) / 2**scale
    delta = last_delta([model], keys, small_images, pool=pool)
    assert (delta.sign() == total.sign()).float().mean() > 0.9999
    assert attack.copies == 12
    for label, word in zip(LABELS, streams.integers(1, "admix", 0, 0)[:, 0].tolist(), strict=True):
        able = [row for row in range(4) if pool.labels[row] != label]
        assert pool.labels[able[word % len(able)]] != label


@pytest.mark.parametrize("nesterov", [False, True])
def test_variance_tuning_is_the_printed_algorithm(model, small_images, nesterov):
    """Wang and He 2021, algorithm 1: momentum of gradient plus last variance, V = mean over neighbours - gradient."""
    keys = keys_of("vni" if nesterov else "vmi", {"steps": 3, "variance": {"samples": 2, "beta": 1.5}})
    streams = Streams(KEY, IDS)
    clean = torch.from_numpy(small_images).float()
    image, momentum, variance = clean.clone(), torch.zeros_like(clean), torch.zeros_like(clean)
    alpha = 16 / 3
    for step in range(3):
        at = image + alpha * momentum if nesterov else image
        here = gradient(model, at)
        tuned = here + variance
        momentum = momentum + tuned / tuned.abs().mean((1, 2, 3), keepdim=True)
        around = torch.zeros_like(clean)
        for sample in (1, 2):
            away = streams.uniform((3, 12, 12), "cpu", "variance", step, sample)
            around += gradient(model, image + 1.5 * 16 * away) / 2
        variance = around - here
        image = (image + alpha * momentum.sign()).clamp(clean - 16, clean + 16).clamp(0, 255)
    assert (np.abs(run([model], keys, small_images).pixels - image.round().numpy()) > 1).mean() < 1e-3


def test_penalty_is_the_gradient_of_the_printed_term():
    """Liu et al. 2017, appendix, by autograd, on both sides of the threshold."""
    delta = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    delta *= torch.tensor([3.0, 20.0, 30.0, 0.0]).view(-1, 1, 1, 1)
    leaf = delta.clone().requires_grad_(True)
    distance = (leaf.square().mean((1, 2, 3)) + 1e-300).sqrt()
    term = -2 * functional.relu(23 - distance) - 5 * functional.relu(distance - 23)
    (expected,) = torch.autograd.grad(term.sum(), leaf)
    ours = DistancePenalty(rmsd=23, below=2, above=5).gradient(delta)
    torch.testing.assert_close(ours[:3], expected[:3])
    assert (ours[3] == 0).all()


def test_the_penalty_holds_the_rmsd(model, small_images):
    penalty = {"rmsd": 6, "below": 1e3, "above": 1e3}
    keys = keys_of("optimization-penalised", {"penalty": penalty, "learning_rate": 1, "steps": 60})
    free = run([model], keys_of("optimization", {"steps": 40}), small_images)
    held = run([model], keys, small_images)
    assert free.rmsd.mean() > 15
    assert held.rmsd.mean() == pytest.approx(6, abs=2)


def test_weights_of_an_ensemble(model, small_images):
    """A weight of nearly one is the model alone; names that are not given weigh one."""
    second = lambda x: -model(x)  # noqa: E731
    alone = last_delta([model], keys_of("fgsm", {}), small_images)
    keys = keys_of("fgsm", {"fusion": "loss", "weights": {"first": 1e6, "second": 1e-6}})
    both = last_delta([model, second], keys, small_images, names=("first", "second"))
    assert torch.equal(alone, both)
    assert Attack.model_validate(keys).weights_of(("first", "other")) == pytest.approx([1, 1e-6], rel=1e-5)
    summed = Attack.model_validate(keys_of("optimization-ensemble", {"weights": {"first": 0.5}}))
    assert summed.weights_of(("first", "other")) == [0.5, 1.0]


def test_random_starts_fill_their_budget(model, small_images):
    """No steps: what is left is the start, uniform in the cube, in the ball (near its surface), or Gaussian."""
    clean = np.full_like(small_images, 128)
    cube = last_delta([model], {"steps": 0, "start": "random", "epsilon": 16}, clean)
    assert cube.abs().max() < 16
    assert cube.std() == pytest.approx(16 / 3**0.5, rel=0.05)
    ball = run([model], {"steps": 0, "start": "random", "budget": {"l2": 200}}, clean)
    assert (ball.l2 <= 200).all()
    assert ball.l2.min() > 190
    noise = run([model], keys_of("gaussian-noise", {}), clean)
    assert noise.rmsd.mean() == pytest.approx(25, rel=0.05)
