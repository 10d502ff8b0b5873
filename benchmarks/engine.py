"""Measures the speed of attacks, compared with bare passes of the network, torchattacks, torchattack and foolbox.

Run: python benchmarks/engine.py [--quick] [--json] [--threads 1] [--device cuda].

The sides of the comparison are:

- `ours`: `craft` as a study runs it, on a channels-last network with its batch norms folded;
- `limit`: only the same number of forward passes and image gradients of that network, in the same precision;
- `torchattacks`, `torchattack`, `foolbox`: float32, eager, each on a contiguous, unfolded copy of the network with
frozen parameters. Without freezing, foolbox takes longer, because it calls `backward()`.

All sides run in one process. They take turns, in an order that changes with each round. Before the first round, each
side runs one step that is not counted. The numbers are medians. Weights are random, because the time of a pass does not
depend on them. The peak memory of a side is measured in a process of its own. It does not include the loaded network.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from study.attacks import Attack
from study.attacks.kinds import Pool
from study.attacks.loop import Crafted, Engine, ImageBatch, craft
from study.attacks.presets import keys_of
from study.models import Model, loading
from study.models.classifier import Classifier
from study.reproducibility import numerics
from study.reproducibility.numerics import Precision

if TYPE_CHECKING:
    from rich.console import Console

NETWORKS = {"resnet18": "torchvision:resnet18", "efficientnet_lite0": "timm:tf_efficientnet_lite0"}
STEPS, BATCH, SIZE, EPSILON, NEIGHBOURS = 10, 16, 224, 16, 5
QUICK_SECONDS, FULL_SECONDS = 44.0, 120.0

# OURS has this project's attacks, by preset and changed keys. The tables of libraries have their attacks by name, with
# the same numbers. Foolbox has no DI, TI or VMI.
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "FGSM": ("fgsm", {}),
    "PGD": ("pgd", {}),
    "MI": ("mi", {}),
    "DI": ("di", {}),
    "TI": ("ti", {}),
    "VMI": ("vmi", {"variance": {"samples": NEIGHBOURS}}),
    "SSA": ("ssa", {}),
    "BSR": ("bsr", {}),
    "SIA": ("sia", {}),
    "PGN": ("pgn", {}),
    "GRA": ("gra", {}),
}
ON_GPU: dict[str, tuple[str, dict[str, Any]]] = {
    "SI": ("si", {}),
    "SG": ("sg-mi", {"smoothing": {"copies": NEIGHBOURS, "sigma": 15}, "steps": STEPS}),
    "Admix": ("admix", {}),
    "SGM": ("mi+sgm", {}),
}
"""Further attacks of this project, which only `gpu.py` measures."""
COSTLY = ("SSA", "BSR", "SIA", "PGN", "GRA")
"""Attacks with 20 or more gradients per step. Only one step of them is measured."""
COSTLY_BATCH = 4
"""Images in a batch of these attacks on a CPU: torchattack's BSR passes 20 copies of all images at once, which for 16
images takes more than 24 GiB."""

TORCHATTACKS: dict[str, tuple[str, dict[str, Any]]] = {
    "FGSM": ("FGSM", {}),
    "PGD": ("PGD", {"alpha": 2 / 255, "random_start": True}),
    "MI": ("MIFGSM", {"alpha": EPSILON / STEPS / 255, "decay": 1.0}),
    "DI": ("DIFGSM", {"alpha": 2 / 255}),
    "TI": ("TIFGSM", {"alpha": 2 / 255, "diversity_prob": 0.0}),
    "VMI": ("VMIFGSM", {"alpha": EPSILON / STEPS / 255, "decay": 1.0, "N": NEIGHBOURS}),
    "SI": ("SINIFGSM", {"alpha": EPSILON / STEPS / 255, "decay": 1.0, "m": 5}),
}
FOOLBOX: dict[str, tuple[str, dict[str, Any]]] = {
    "FGSM": ("FGSM", {}),
    "PGD": ("LinfPGD", {"abs_stepsize": 2 / 255, "random_start": True}),
    "MI": ("MIFGSM", {"abs_stepsize": EPSILON / STEPS / 255, "momentum": 1.0}),
}
# No library has SIA and PGN.
TORCHATTACK: dict[str, str] = {"SSA": "SSA", "BSR": "BSR", "GRA": "GRA", "VMI": "VMIFGSM", "MI": "MIFGSM"}
Side = Callable[[int], None]
"""A function that runs the attack of one side with the given number of steps."""


class Bench:
    """Makes the sides for one network on one device. They share the weights and `batch` images."""

    def __init__(self, reference: Model, device: str, threads: int, batch: int = BATCH, size: int = SIZE) -> None:
        self.device, self.threads, self.batch = device, threads, batch
        self._reference = reference
        self.clean = np.random.default_rng(0).integers(0, 256, (batch, 3, size, size), dtype=np.uint8)
        self.labels = np.arange(batch)
        self._models: dict[tuple[bool, bool | str], Classifier] = {}

    def model(self, *, ours: bool, compiled: bool | str = False) -> Classifier:
        """Return the network as a study prepares it (`ours`), or as a user of a library has it."""
        if (ours, compiled) not in self._models:
            layout: numerics.Layout = "channels-last" if ours else "contiguous"
            model = loading.load("bench", self._reference, device=self.device, fold=ours, layout=layout)
            if compiled:
                model.compile_with(compiled)
            self._models[ours, compiled] = model
        return self._models[ours, compiled]

    def ours(self, attack: str, precision: Precision = "float32", compiled: bool | str = False) -> Side:
        model = self.model(ours=True, compiled=compiled)

        def run(steps: int) -> None:
            self._crafted(model, attack, steps, precision)

        return run

    def adversarial(self, attack: str, steps: int, precision: Precision = "float32") -> NDArray[np.uint8]:
        """Return the adversarial images that the side `ours` makes, `uint8` (N, C, H, W)."""
        return self._crafted(self.model(ours=True), attack, steps, precision).pixels

    def _crafted(self, model: Classifier, attack: str, steps: int, precision: Precision) -> Crafted:
        numerics.fix(self.threads, device=self.device)
        made, pool = recipe(attack, steps), Pool(self.clean, self.labels)
        given = ImageBatch(self.clean, self.labels, [str(index) for index in range(self.batch)])
        engine = Engine(batch=self.batch, device=self.device, precision=precision)
        mixed = pool if made.others else None
        return craft([model], made, "untargeted", given, key=("bench",), engine=engine, pool=mixed)

    def limit(self, attack: str, precision: Precision = "float32", compiled: bool | str = False) -> Side:
        model = self.model(ours=True, compiled=compiled)

        def run(steps: int) -> None:
            numerics.fix(self.threads, device=self.device)
            network = model.in_precision(precision)
            start = torch.from_numpy(self.clean).to(self.device, torch.float32, memory_format=torch.channels_last)
            for _ in range(recipe(attack, steps).gradients(steps, 1)):
                pixels = start.detach().requires_grad_(True)
                with numerics.network_pass(precision, self.device):
                    with numerics.autocast(precision, self.device):
                        logits = network(pixels)
                    torch.autograd.grad(logits.float().logsumexp(1).sum(), pixels)

        return run

    def torchattacks(self, attack: str) -> Side:
        name, keys = TORCHATTACKS[attack]
        classifier = self.model(ours=False)
        network = Normalised(copy.deepcopy(classifier.network), classifier.mean, classifier.std).eval()
        images, labels = self.scaled()

        def run(steps: int) -> None:
            import torchattacks  # type: ignore[import-untyped]

            as_shipped(self.threads)
            counted = {} if attack == "FGSM" else {"steps": steps}
            getattr(torchattacks, name)(network, eps=EPSILON / 255, **keys, **counted)(images, labels)

        return run

    def torchattack(self, attack: str) -> Side:
        classifier = self.model(ours=False)
        mean, std = classifier.mean, classifier.std
        network = copy.deepcopy(classifier.network).eval()
        images, labels = self.scaled()
        keys = {"n": NEIGHBOURS} if attack == "VMI" else {}

        def run(steps: int) -> None:
            import torchattack

            as_shipped(self.threads)
            made = getattr(torchattack, TORCHATTACK[attack])(
                network, lambda given: (given - mean) / std, self.device, eps=EPSILON / 255, steps=steps, **keys
            )
            made(images, labels)

        return run

    def foolbox(self, attack: str) -> Side:
        import foolbox

        name, keys = FOOLBOX[attack]
        classifier = self.model(ours=False)
        mean, std = (list(part.flatten().tolist()) for part in (classifier.mean, classifier.std))
        network = copy.deepcopy(classifier.network)
        preprocessing = {"mean": mean, "std": std, "axis": -3}
        wrapped = foolbox.PyTorchModel(  # type: ignore[attr-defined]
            network, bounds=(0, 1), preprocessing=preprocessing, device=self.device
        )
        images, labels = self.scaled()

        def run(steps: int) -> None:
            as_shipped(self.threads)
            counted = {} if attack == "FGSM" else {"steps": steps}
            getattr(foolbox.attacks, name)(**keys, **counted)(wrapped, images, labels, epsilons=EPSILON / 255)

        return run

    def sides(self, attack: str) -> dict[str, Side]:
        """Return all sides of one attack, by name. On a GPU, `ours` and `limit` also run in bf16, and compiled."""
        found = {"ours": self.ours(attack), "limit": self.limit(attack)}
        if self.device != "cpu":
            for compiled in (False, True):
                kind = "bf16, compiled" if compiled else "bf16"
                found[f"ours ({kind})"] = self.ours(attack, "bfloat16", compiled)
                found[f"limit ({kind})"] = self.limit(attack, "bfloat16", compiled)
        if attack in TORCHATTACKS:
            found["torchattacks"] = self.torchattacks(attack)
        if attack in TORCHATTACK:
            found["torchattack"] = self.torchattack(attack)
        if attack in FOOLBOX:
            found["foolbox"] = self.foolbox(attack)
        return found

    def scaled(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the images in 0..1 and their labels, both on the device."""
        images = torch.from_numpy(self.clean).to(self.device) / 255
        return images, torch.from_numpy(self.labels).to(self.device)


def recipe(attack: str, steps: int) -> Attack:
    """Return the recipe of one of this project's attacks with `steps` steps."""
    preset, changed = (OURS | ON_GPU)[attack]
    return Attack.model_validate(keys_of(preset, {**changed, "steps": steps}))


class Normalised(torch.nn.Module):
    """A network that takes images in 0..1 and normalises them itself."""

    def __init__(self, network: torch.nn.Module, mean: torch.Tensor, std: torch.Tensor) -> None:
        super().__init__()
        self.network, self.mean, self.std = network, mean, std

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network((images - self.mean) / self.std)
        return logits


def as_shipped(threads: int) -> None:
    """Set PyTorch's default settings, which users of libraries have: any kernel, and tf32 in convolutions."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.matmul.allow_tf32 = False


def _bench(network: str, device: str, threads: int, batch: int = BATCH) -> Bench:
    return Bench(Model.model_validate({"network": NETWORKS[network], "weights": "random:0"}), device, threads, batch)


def _batch(attack: str, device: str) -> int:
    return COSTLY_BATCH if device == "cpu" and attack in COSTLY else BATCH


def _seconds(side: Side, steps: int, device: str) -> float:
    began = time.perf_counter()
    side(steps)
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def compare(sides: dict[str, Side], *, steps: int, budget: float, device: str) -> tuple[dict[str, float], int, int]:
    """Return the median seconds of every side, the number of rounds, and the number of steps.

    Rounds are repeated as long as a further round fits into `budget` seconds. The number of steps is reduced only if
    not even one round would fit.
    """
    began = time.perf_counter()
    one_step = sum(_seconds(side, 1, device) for side in sides.values())
    if one_step * (1 + steps) > budget:  # measure again, because first runs are slow
        one_step = min(one_step, sum(_seconds(side, 1, device) for side in sides.values()))
        left = budget - (time.perf_counter() - began)
        steps = min(steps, max(2, int(left / one_step)))
    taken: dict[str, list[float]] = {name: [] for name in sides}
    rounds, longest = 0, 0.0
    while not rounds or time.perf_counter() - began + longest < budget:
        started = time.perf_counter()
        names = list(sides)
        turn = rounds % len(names)
        for name in names[turn:] + names[:turn]:
            taken[name].append(_seconds(sides[name], steps, device))
        rounds += 1
        longest = max(longest, time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in taken.items()}, rounds, steps


def ratios(seconds: dict[str, float]) -> dict[str, float]:
    """Return the time of `ours` relative to its limit, and the times of libraries relative to `ours`, in every mode."""
    found = {}
    for name, ours in seconds.items():
        if not name.startswith("ours"):
            continue
        suffix = name.removeprefix("ours")
        found[f"ratio_to_limit{suffix}"] = ours / seconds[f"limit{suffix}"]
        for library in ("torchattacks", "torchattack", "foolbox"):
            if library in seconds:
                found[f"speedup_over_{library}{suffix}"] = seconds[library] / ours
    return found


def peak_mebibytes(side: str, network: str, attack: str, device: str, threads: int) -> float:
    """Return the peak memory of one side in MiB, without its loaded network.

    It is measured in a fresh process. Two steps are enough to reach the peak.
    """
    command = [sys.executable, __file__, "--threads", str(threads), "--device", device]
    command += ["--peak-of", side, "--network", network, "--attack", attack]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"measuring the memory of {side} failed:\n{done.stderr}")
    return float(done.stdout.splitlines()[-1])


def _peak_here(side: str, network: str, attack: str, device: str, threads: int) -> float:
    numerics.fix(threads)
    run: Side = getattr(_bench(network, device, threads, _batch(attack, device)), side)(attack)
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(2)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    # The kernel stores the highest memory of a process. Reset it here, because loading used more memory than the loaded
    # network does.
    Path("/proc/self/clear_refs").write_text("5")
    loaded = _status("VmRSS")
    run(2)
    return (_status("VmHWM") - loaded) / 2**10


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def _show(console: Console, network: str, results: dict[str, dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table("attack", "side", "seconds", "x limit", "ahead", "peak MiB", "rounds", title=network)
    for attack, result in results.items():
        for side, seconds in result["seconds"].items():
            kind = side.removeprefix("ours")
            to_limit = f"{result[f'ratio_to_limit{kind}']:.3f}" if side.startswith("ours") else ""
            faster = result.get(f"speedup_over_{side}")
            peak = result["peak_mebibytes"].get(side)
            steps = "" if result["steps"] == STEPS or attack == "FGSM" else f" ({result['steps']} steps)"
            cells = [f"{seconds:.3f}", to_limit, f"{faster:.2f}x" if faster else "", f"{peak:.0f}" if peak else ""]
            table.add_row(attack, side, *cells, f"{result['rounds']}{steps}")
    console.print(table)


def main() -> None:
    from rich.console import Console

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only MI with 10 steps on resnet18, within a minute")
    parser.add_argument("--json", action="store_true", help="print MI on resnet18 as one JSON object, in the last line")
    parser.add_argument("--threads", type=int, default=1, help="number of threads, at most the number of idle cores")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; cuda also measures bf16 and torch.compile")
    parser.add_argument("--seconds", type=float, help="seconds for each attack on each network")
    parser.add_argument("--network", choices=NETWORKS, help="only this network")
    parser.add_argument("--attack", choices=OURS, help="only this attack")
    parser.add_argument(
        "--peak-of", choices=["ours", "limit", "torchattacks", "torchattack", "foolbox"], help=argparse.SUPPRESS
    )
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    if chosen.peak_of:
        print(_peak_here(chosen.peak_of, chosen.network, chosen.attack, chosen.device, chosen.threads))
        return
    networks = [chosen.network] if chosen.network else ["resnet18"] if chosen.quick else list(NETWORKS)
    attacks = [chosen.attack] if chosen.attack else ["MI"] if chosen.quick else list(OURS)
    budget = chosen.seconds or (QUICK_SECONDS if chosen.quick else FULL_SECONDS)
    console = Console()
    batches = f"batch {BATCH} ({COSTLY_BATCH} for {', '.join(COSTLY)} on a CPU)"
    console.print(f"{batches} at {SIZE}, {chosen.threads} threads, {chosen.device}, torch {torch.__version__}")
    everything: dict[str, dict[str, dict[str, Any]]] = {}
    for network in networks:
        benches = {batch: _bench(network, chosen.device, chosen.threads, batch) for batch in (BATCH, COSTLY_BATCH)}
        everything[network] = {}
        for attack in attacks:
            sides = benches[_batch(attack, chosen.device)].sides(attack)
            steps = 1 if attack == "FGSM" or attack in COSTLY else STEPS
            seconds, rounds, steps = compare(sides, steps=steps, budget=budget, device=chosen.device)
            peaks = {}
            if not chosen.quick:
                shared = (network, attack, chosen.device, chosen.threads)
                peaks = {side: peak_mebibytes(side, *shared) for side in sides if "(" not in side}
            everything[network][attack] = {
                **ratios(seconds),
                "seconds": seconds,
                "peak_mebibytes": peaks,
                "rounds": rounds,
                "steps": steps,
            }
        _show(console, network, everything[network])
    if chosen.json:
        first = everything.get("resnet18", everything[networks[0]])
        shown = first.get("MI", first[attacks[0]])
        print(json.dumps({**shown, "threads": chosen.threads, "device": chosen.device, "batch": BATCH}))


if __name__ == "__main__":
    main()
