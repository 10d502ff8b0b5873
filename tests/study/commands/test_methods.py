"""The paragraph on the methods of a run: every attack with its paper and numbers, images, models, versions."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

from study import __version__
from study.attacks import presets
from study.attacks.recipe import Attack
from study.commands.methods import paragraphs, preset_of
from study.results.run_reader import open_run
from study.spec.loading import load
from tests.conftest import TINY


def test_the_paragraphs_of_a_run(door, tiny_run):
    status, printed, error = door("methods", tiny_run)
    assert status == 0, error
    images, attacks, experiments, numbers, computed = [part for part in printed.split("\n\n") if part.strip()]
    assert images.startswith("We use 6 ImageNet images (samples of the package foolbox) of 48 x 48 pixels, whether or")
    spec, models = open_run(str(tiny_run)).spec, open_run(str(tiny_run)).models
    for name, model in spec.models.items():
        assert f"{name} ({model.network}" in images
        assert f"digest {models[name]['digest'][:12]}" in images
    for part in (
        "optimization (Liu et al. 2017, arXiv:1611.02770) has no budget but the range of pixel values and 3 steps of",
        " of Adam with learning rate 4",
        "fg (Liu et al. 2017, arXiv:1611.02770) has the RMSD of optimization (of each image)",
        "mi (Dong et al. 2018, arXiv:1710.06081) has an L-infinity budget of 16 (pixel values 0..255) and 2 steps of 8",
        "2 steps of 8, momentum 1",
        "summed is optimization-ensemble (Liu et al. 2017, arXiv:1611.02770)",
        "rounded to 8-bit values",
    ):
        assert part in attacks
    assert "Experiment single runs optimization, fg, fgs and mi (untargeted and targeted) on each source" in experiments
    assert "on ensembles of all source models but one" in experiments
    assert numbers.startswith(
        "An untargeted image succeeds if the target model does not predict the true label; a targ"
    )
    assert "Rates are means over seeds" not in numbers
    assert f"study {__version__} in float32, passes of 2 images, 1 thread" in computed
    assert "torch" in computed


@pytest.mark.parametrize("name", ["mi", "pgd", "sgm", "mi+di", "dem", "vni", "ssa", "fia", "svre"])
def test_an_attack_is_known_by_its_parts(name):
    keys = presets.keys_of(name, {"epsilon": 4, "steps": 7} if "steps" in presets.preset(name).keys else {})
    assert preset_of(name, Attack.model_validate(keys)) == name
    assert preset_of("mine", Attack.model_validate(keys)) == name


def test_other_numbers_of_a_part_are_the_same_method():
    assert preset_of("x", Attack.model_validate(presets.keys_of("sgm", {"skip_gradient": {"gamma": 0.9}}))) == "sgm"
    assert preset_of("x", Attack.model_validate(presets.keys_of("mi+di", {"diversity": {"high": 1.3}}))) == "mi+di"
    assert preset_of("x", Attack.model_validate({"step": "l2", "epsilon": 8, "momentum": 1, "scales": 3})) is None


ATTACKS = {
    "squares": {"step": "l2", "budget": {"epsilon": 8}, "steps": 5, "step_size": 10},
    "gi": {"preset": "gi"},
    "ila": {"preset": "ila"},
    "ila++": {"preset": "ila++"},
}
SENTENCES = (
    "squares has an L-infinity budget of 8 (pixel values 0..255) and 5 steps of 10, step l2.",
    "gi (Wang et al. 2022, arXiv:2211.11236) has an L-infinity budget of 16 (pixel values 0..255) and 15 steps of 1.6, "
    "momentum 1, step (gi (warmup 5, factor 10, variant paper)).",
    "ila (Huang et al. 2019, arXiv:1907.10823) has an L-infinity budget of 16 (pixel values 0..255) and 10 steps of "
    "1.6, objective (ila (layer authors, form projection, magnitude 1)); its first stage has an L-infinity budget of "
    "16 (pixel values 0..255) and 10 steps of 1.6.",
    "ila++ (Guo et al. 2022, arXiv:2203.10723) has an L-infinity budget of 16 (pixel values 0..255) and 50 steps of 1, "
    "objective (ila++ (layer middle, iterates 10)); its first stage has an L-infinity budget of 16 (pixel values "
    "0..255) and 10 steps of 1.6, read after 1, 2, 3, 4, 5, 6, 7, 8, 9 and 10.",
)
TRANSFORMED = {
    "b-several": {"model": "b", "transform": [{"jpeg": 75}, {"blur": 1}]},
    "b-smoothed": {"model": "b", "transform": {"smoothing": {"draws": 9}}},
}


def test_every_stage_of_an_attack_and_of_a_transform_is_told(tiny_run, spec_file):
    """Of a spec alone: nothing of this has rows in the run."""
    spec = yaml.safe_load(TINY)
    spec |= {"models": spec["models"] | TRANSFORMED, "attacks": ATTACKS}
    spec["experiments"] = {"one": {"attacks": list(ATTACKS), "sources": ["a"]}}
    finished = dataclasses.replace(open_run(str(tiny_run)), spec=load(spec_file(spec)).spec)
    images, attacks, *_ = paragraphs(finished, [], [])
    assert attacks == " ".join(SENTENCES) + (
        " Attacks increase the cross-entropy of the true label (targeted: decrease that of the target label), average "
        "the probabilities of several source models, and step along the sign of the gradient, unless another "
        "objective, fusion or step is named. Adversarial images are rounded to 8-bit values within the budget before a "
        "target sees them."
    )
    assert ", behind jpeg 75, blur 1; target)" in images
    assert ", behind smoothing draws 9; target)" in images


def test_no_run(door, tmp_path):
    assert door("methods", tmp_path)[0] == 2
