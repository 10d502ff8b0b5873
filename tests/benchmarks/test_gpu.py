"""The acceptance run of a GPU, on a CPU: it keeps what it has if it is cut off, and checks find planted faults."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from study.attacks import Attack
from study.attacks.gradient import BatchGradients
from study.attacks.loop import Engine, craft
from study.attacks.presets import keys_of
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import gpu
from on_gpu import bits, draws, memory, peers, presets, record, setting, speed
from on_gpu.markdown import page


@pytest.fixture
def cpu(tmp_path):
    return setting.Setting("cpu", threads=1, folder=tmp_path)


@pytest.fixture
def tried(tmp_path):
    """Run a check; return the lines that it wrote, by case."""

    def run(check, given):
        results = record.Results(tmp_path / "results.jsonl", "now")
        check(given, record.Step("tried", results, 300))
        return {line.case: line for line in record.read(results.path)}

    return run


def launched(monkeypatch, folder, *options):
    monkeypatch.setattr(gpu, "_BEGAN", time.monotonic())
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(folder), "--device", "cpu", *options])
    return gpu.main()


def passes(_, step):
    step.check("right", True)


def fails(_, step):
    step.check("wrong", False, "two is not three", found=2)


def raises(_, step):
    with step.case("first"):
        raise ValueError("no such kernel")
    step.check("second", True)


def dies(_, step):
    step.check("before", True)
    os.kill(os.getpid(), signal.SIGKILL)


def hangs(_, step):
    step.check("before", True)
    time.sleep(60)


def planted(monkeypatch, *steps):
    """Replace the steps. One that hangs is ended after two seconds."""
    seconds = {hangs: 0.001}
    made = {step.__name__: gpu.Planned(step, seconds.get(step, 1), networks=False) for step in steps}
    monkeypatch.setattr(gpu, "STEPS", made)
    monkeypatch.setattr(gpu, "_GRACE", 2.0)


def test_a_run_keeps_what_it_has_when_steps_fail_die_and_hang(monkeypatch, tmp_path, capsys):
    planted(monkeypatch, raises, dies, hangs, passes)
    assert launched(monkeypatch, tmp_path, "--seconds", "60") == gpu.FAILED
    found = {(line.step, line.case): line for line in record.read(tmp_path / "results.jsonl")}
    outcomes = {place: line.outcome for place, line in found.items() if line.outcome not in ("done", "measured")}
    assert outcomes == {
        ("raises", "first"): "failed",
        ("raises", "second"): "passed",
        ("dies", "before"): "passed",
        ("dies", "the step"): "failed",
        ("hangs", "before"): "passed",
        ("hangs", "the step"): "cut off",
        ("passes", "right"): "passed",
    }
    assert found["raises", "first"].why.startswith("ValueError: no such kernel (test_gpu.py:")
    text = capsys.readouterr().out
    assert text.strip() == (tmp_path / "table.md").read_text().strip()
    assert "| dies: the step | its process ended with -9 |" in text


@pytest.mark.parametrize(("steps", "expected"), [((passes,), 0), ((hangs, fails), 1), ((hangs, passes), 3)])
def test_the_exit_status_tells_whether_a_check_failed_or_was_cut_off(monkeypatch, tmp_path, steps, expected):
    planted(monkeypatch, *steps)
    assert launched(monkeypatch, tmp_path, "--seconds", "60") == expected


def test_a_later_run_has_a_status_and_lines_of_its_own(monkeypatch, tmp_path, capsys):
    planted(monkeypatch, fails)
    assert launched(monkeypatch, tmp_path, "--seconds", "60") == 1
    assert "two is not three" in capsys.readouterr().out

    def mended(_, step):
        step.check("wrong", True)

    monkeypatch.setattr(gpu, "STEPS", {"fails": gpu.Planned(mended, 1, networks=False)})
    assert launched(monkeypatch, tmp_path, "--seconds", "60") == 0
    assert "two is not three" not in capsys.readouterr().out


ABSENT = (
    *("ray", "polars", "pyarrow", "rich", "typer", "httpx", "tenacity", "jinja2", "matplotlib", "wandb", "obstore"),
    *("foolbox", "torchattacks", "torchattack", "pandas", "pretrainedmodels"),
)
"""What a machine that is lent for a run may lack."""

WITHOUT = f"""
import runpy, sys
for name in {ABSENT!r}:
    sys.modules[name] = None
"""
ATTACK = """
import numpy as np
from study.attacks import Attack
from study.attacks.loop import Engine, ImageBatch, craft
from study.attacks.presets import keys_of, known
from study.models import Model, loading
from study.models.predict import predict

for name in known():
    Attack.model_validate(keys_of(name, {})).assembly
model = loading.load("m", Model.model_validate({"network": "timm:test_resnet", "weights": "random:0", "size": 32}))
clean = np.arange(2 * 3 * 32 * 32, dtype=np.uint8).reshape(2, 3, 32, 32)
given = ImageBatch(clean, np.array([1, 2]), ["a", "b"])
attack = Attack.model_validate(keys_of("mi+di", {"steps": 2}))
made = craft([model], attack, "untargeted", given, key=("k",), engine=Engine(batch=2))
print(made.linf.tolist(), predict(model, made.pixels, batch=2).top5.shape)
"""
COMMAND = """
runpy.run_path(sys.argv[1], run_name="__main__")
"""
"""In a process of its own: it forks, which torch's threads do not survive once they have computed."""


def test_attacks_models_and_the_command_run_without_ray_polars_and_the_like(tmp_path):
    script = str(ROOT / "benchmarks" / "gpu.py")
    options = ["--out", str(tmp_path), "--device", "cpu", "--only", "draws", "--seconds", "600"]
    # The script's folder is the first of the path, as if Python had been given the script.
    paths = os.pathsep.join([str(ROOT / "benchmarks"), str(ROOT)])
    about = {"capture_output": True, "text": True, "env": {**os.environ, "PYTHONPATH": paths}}
    attacked = subprocess.run([sys.executable, "-c", WITHOUT + ATTACK], check=False, **about)
    assert attacked.stdout.strip() == "[16.0, 16.0] (2, 5)", attacked.stderr[-2000:]
    line = [sys.executable, "-c", WITHOUT + COMMAND.replace("sys.argv[1]", repr(script)), *options]
    done = subprocess.run(line, check=False, **about)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    checked = {line["case"]: line["outcome"] for line in lines if line["outcome"] in ("passed", "failed")}
    assert checked == {"words": "passed", "uniform": "passed", "normal": "passed"}
    assert "| draws | 3 |" in done.stdout


def test_other_words_are_found(monkeypatch, tried, cpu):
    philox = draws.philox
    monkeypatch.setattr(draws, "philox", lambda *given: philox(*given) ^ 1)
    assert tried(draws.check, cpu)["words"].outcome == "failed"


def test_an_image_that_depends_on_its_company_is_found(monkeypatch, tried, cpu):
    def neighbourly(models, attack, given, how, **more):
        made = setting.run(models, attack, given, how, **more)
        made.pixels[0, 0, 0, 0] ^= len(given.clean) % 2
        return made

    monkeypatch.setattr(bits, "MAIN", ("MI",))
    monkeypatch.setattr(bits, "_pairs", lambda _: [("test ResNet", setting.Mode())])
    monkeypatch.setattr(bits, "STEPS", 1)
    monkeypatch.setattr(bits, "FRESH", ())
    case = "MI, test ResNet, float32"
    assert tried(bits.check, cpu)[case].outcome == "passed"
    monkeypatch.setattr(bits, "run", neighbourly)
    found = tried(bits.check, cpu)[case]
    assert found.outcome == "failed"
    assert found.why == "other bits for other neighbours, an image alone"


def test_presets_agree_and_a_wrong_gradient_is_found(monkeypatch, tried, cpu):
    monkeypatch.setattr(presets, "known", lambda: ["mi"])
    found = tried(presets.check, cpu)["mi"]
    assert found.outcome == "passed", found.why
    assert found.figures["cosine"] > 0.9999
    of = BatchGradients.of

    def wrong(self, *given):
        gradient = of(self, *given)
        return gradient if self.origin.is_contiguous(memory_format=torch.channels_last) else gradient.flip(-1)

    # The reference side is computed in processes that know the replaced method, too, and is channels-last.
    monkeypatch.setattr(BatchGradients, "of", wrong)
    assert "the gradient's cosine is" in tried(presets.check, cpu)["mi"].why


def test_halving_is_checked_where_there_is_no_gpu(monkeypatch, tried, cpu):
    found = tried(memory.check, cpu)
    assert found["told, at most 7 images"].outcome == "passed"
    assert found["told, at most 7 images"].figures["largest_pass"] == 4
    assert found["a limit of the process"].why == "no GPU"

    halve = BatchGradients._halve

    def astray(self, shortage):
        halve(self, shortage)
        self.labels = (self.labels + 1) % 1000

    monkeypatch.setattr(BatchGradients, "_halve", astray)
    assert tried(memory.check, cpu)["told, at most 7 images"].why == "images differ from those of smaller passes"


@pytest.mark.parametrize("attack", peers.ATTACKS)
def test_the_other_loop_keeps_the_budget(attack, cpu):
    bench = speed.Bench(cpu.reference("test ResNet", 32), "cpu", 1, 4, 32)
    made = peers.adversarial(bench, attack, batch=2, steps=2).numpy().astype(int)
    moved = np.abs(made - bench.clean)
    assert moved.max() == 16
    assert (moved > 0).mean() > 0.7


def test_the_other_loop_is_mi(cpu):
    """Of two loops of MI, only pixels whose gradient is near 0 differ."""
    bench = speed.Bench(cpu.reference("test ResNet", 32), "cpu", 1, 4, 32)
    theirs = peers.adversarial(bench, "MI", batch=4, steps=1).numpy()
    given = setting.ImageBatch(bench.clean, bench.labels, list("abcd"))
    attack = Attack.model_validate(keys_of("mi", {"steps": 1}))
    ours = craft([bench.model(ours=False)], attack, "untargeted", given, key=("x",), engine=Engine(batch=4))
    assert (theirs == ours.pixels).mean() > 0.998


@pytest.mark.parametrize("attack", [one for one in peers.ATTACKS if one != "DI"])
def test_the_other_loop_stays_on_a_gpu(monkeypatch, attack):
    """On tensors without data, where whatever mixes devices is an error. A backward pass would need the device."""
    monkeypatch.setattr(torch.autograd, "grad", lambda loss, delta: (torch.zeros_like(delta) + loss,))
    with FakeTensorMode():
        network = torch.nn.Linear(3 * 32 * 32, 10, device="cuda")
        images, labels = torch.empty(4, 3, 32, 32, device="cuda"), torch.zeros(4, dtype=torch.int64, device="cuda")
        loop = peers.TransferLoop(torch.nn.Sequential(torch.nn.Flatten(), network), attack, 2)
        assert loop(images, labels).device.type == "cuda"


def test_tables_name_speeds_goals_and_faults():
    timed = {
        "us_an_image_and_step": {"ours, tf32": 100.0, "limit, tf32": 95.0, "TransferAttack's loop": 150.0},
        "times_limit": {"tf32": 1.053},
        "ahead": {"TransferAttack's loop": {"tf32": 1.5}},
        "peak_mib": {"ours, tf32": 900},
        "rounds": 3,
    }
    text = page(
        [
            record.Line("speed", "ResNet-50, MI, batch 256", "measured", figures=timed),
            record.Line("speed", "goal: as fast", "measured", figures={"is_": 1.05, "met": False}),
            record.Line("bits", "MI", "failed", "other bits for a repeat"),
            record.Line("memory", "a limit", "skipped", "no GPU"),
        ],
        "NVIDIA X",
    )
    assert "| ResNet-50, MI, batch 256 | tf32 | 100.0 | 95.0 | 1.053 | TransferAttack's loop 1.5x | 900 | 3 |" in text
    assert "| as fast | 1.05 | missed |" in text
    assert "| bits: MI | other bits for a repeat |" in text
    assert "| memory: a limit | no GPU |" in text


@pytest.mark.slow
def test_every_step_runs_to_its_end_on_a_cpu(tmp_path):
    line = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--out", str(tmp_path), "--device", "cpu"]
    done = subprocess.run([*line, "--seconds", "900"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = record.read(tmp_path / "results.jsonl")
    assert {line.step for line in lines if line.outcome == "done"} == set(gpu.STEPS)
    skipped = {line.why for line in lines if line.step == "synchronisation" and line.outcome == "skipped"}
    assert skipped == {setting.NO_GPU}
