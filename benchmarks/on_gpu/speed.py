"""Measures the speed of attacks, compared with bare passes of the same network, and with other attack loops.

Bare passes have the same mode as the attack. The sides of a case run in turns, in one process. The first runs are not
counted, because they compile. Figures are medians, in microseconds for an image and a step. A missed goal is reported,
but it is no failure, because speed depends on what else the machine does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from engine import STEPS, Bench, Side, compare, recipe

from on_gpu import peers
from on_gpu.record import Step
from on_gpu.setting import MAIN, Mode, Setting, prepare
from study.models.predict import predict
from study.reproducibility.numerics import Numerics, settled

PEER = "TransferAttack's loop"
CLASS = "TransferAttack's class"
GRAPHS = "cuda-graphs"
_NO_TIME = "no time was left"
HARD = ("DI", "SG", "VMI")
"""Attacks that compute more than gradients. The goal is at most 1.3 times the time of the bare passes; for MI it is
1.1."""


@dataclass(frozen=True)
class Case:
    """An attack on a network with `batch` images in a pass, in some modes.

    `peers`: whether other attack loops are measured too.
    """

    network: str
    attack: str
    batch: int
    modes: tuple[Mode, ...]
    peers: bool = True

    def __str__(self) -> str:
        return f"{self.network}, {self.attack}, batch {self.batch}"


def default(device: str) -> Mode:
    """Return the mode of a spec that does not set `numerics`."""
    return Mode(settled(Numerics().precision, device), Numerics().compile)


def first(setting: Setting, step: Step) -> None:
    """Check the success of MI, and measure the cases with goals.

    These are MI on the first network in every mode, and then the attacks `HARD` on this network.
    """
    sizes = setting.sizes
    network, batch = next(iter(sizes.networks)), sizes.batches[0]
    cases = [Case(network, "MI", batch, _every_mode(setting))]
    cases += [Case(network, attack, batch, _few_modes(setting)) for attack in HARD]
    # Measurements take all the time that they get, so the check comes first.
    if step.room_for("success", 5.0):
        with step.case("success"):
            _success(setting, step, network, batch)
    _measure(setting, step, cases)


def more(setting: Setting, step: Step) -> None:
    """Measure other batch sizes, networks and attacks, as far as the time allows."""
    sizes = setting.sizes
    networks, batches = list(sizes.networks)[: 4 if setting.on_gpu else None], sizes.batches
    eager = tuple(Mode(precision) for precision in setting.timed_precisions)
    cases = [Case(networks[0], "MI", batch, eager, peers=False) for batch in batches[1:]]
    cases += [Case(network, "MI", batches[0], _few_modes(setting)) for network in networks[1:]]
    cases += [Case(networks[0], attack, batches[0], _few_modes(setting)) for attack in ("TI", "SI", "Admix", "SGM")]
    for attack in ("DI", "TI", "SI", "SG", "VMI", "Admix"):
        cases += [Case(network, attack, batches[0], eager, peers=False) for network in networks[1:]]
    for batch in batches[1:]:
        cases += [Case(networks[0], attack, batch, eager, peers=False) for attack in MAIN[1:]]
    _measure(setting, step, cases)


def _every_mode(setting: Setting) -> tuple[Mode, ...]:
    compiled: tuple[bool | str, ...] = (False, GRAPHS, True) if setting.on_gpu else (False,)
    # The fastest precision comes first, so that it is measured even if the time runs out.
    return tuple(Mode(precision, how) for how in compiled for precision in reversed(setting.timed_precisions))


def _few_modes(setting: Setting) -> tuple[Mode, ...]:
    eager = [Mode(precision) for precision in setting.timed_precisions]
    return tuple(
        dict.fromkeys([default(setting.device), *eager, *([Mode("bfloat16", GRAPHS)] if setting.on_gpu else [])])
    )


def _measure(setting: Setting, step: Step, cases: Sequence[Case]) -> None:
    bench: Bench | None = None
    held: tuple[str, int] | None = None
    for number, case in enumerate(cases):
        if step.left < (8.0 if setting.on_gpu else 0.5):
            step.skipped(str(case), _NO_TIME)
            continue
        with step.case(str(case)):
            if bench is None or held != (case.network, case.batch):
                # Free the memory of the last network first.
                bench = None
                reference = setting.reference(case.network, setting.sizes.side)
                bench = Bench(reference, setting.device, setting.threads, case.batch, setting.sizes.side)
                held = (case.network, case.batch)
            # The first case has the most modes, so it gets as much time as three others. Time that a case leaves goes
            # to later cases.
            left = len(cases) - number
            share = step.left * (3 if number == 0 else 1) / (left + (2 if number == 0 else 0))
            _compared(setting, step, case, bench, share)


def _compared(setting: Setting, step: Step, case: Case, bench: Bench, seconds: float) -> None:
    sides: dict[str, Side] = {}
    peaks: dict[str, float] = {}
    ends = step.left - seconds
    for name, make in _sides(setting, case, bench, step):
        if sides and step.left < ends + 0.3 * seconds:
            step.skipped(f"{case}: {name}", _NO_TIME)
            continue
        with step.case(f"{case}: {name}"):
            side = make()
            side(1)
            peaks[name] = _peak(setting, side)
            sides[name] = side
    steps = recipe(case.attack, STEPS).steps
    budget = max(0.2, step.left - ends)
    taken, rounds, steps = compare(sides, steps=steps, budget=budget, device=setting.device)
    figures: dict[str, Any] = {
        "us_an_image_and_step": {name: round(1e6 * one / case.batch / steps, 2) for name, one in taken.items()},
        "peak_mib": {name: round(one) for name, one in peaks.items() if one},
        "times_limit": {},
        "ahead": {},
        "rounds": rounds,
        "steps": steps,
    }
    for mode in case.modes:
        ours, limit = taken.get(f"ours, {mode}"), taken.get(f"limit, {mode}")
        if ours and limit:
            figures["times_limit"][str(mode)] = round(ours / limit, 3)
        for peer in (name for name in taken if not name.startswith(("ours", "limit"))):
            if ours:
                figures["ahead"].setdefault(peer, {})[str(mode)] = round(taken[peer] / ours, 2)
    step.measured(str(case), **figures)
    if setting.on_gpu and case.batch == setting.sizes.batches[0]:
        _goals(step, case, figures, default(setting.device))


def _sides(setting: Setting, case: Case, bench: Bench, step: Step) -> Iterator[tuple[str, Any]]:
    """Yield the name of each side and a function that makes the side, the most important sides first."""
    batch = setting.sizes.peer_batch

    def ours(mode: Mode) -> Any:
        return lambda: bench.ours(case.attack, mode.precision, mode.compile)

    def limit(mode: Mode) -> Any:
        return lambda: bench.limit(case.attack, mode.precision, mode.compile)

    eager = [mode for mode in case.modes if not mode.compile]
    for mode in eager:
        yield f"ours, {mode}", ours(mode)
        yield f"limit, {mode}", limit(mode)
    if case.peers:
        yield PEER, lambda: peers.transfer_loop(bench, case.attack, batch)
        folder = setting.transferattack
        if folder is not None and case.attack in peers.CLASSES:
            yield CLASS, lambda: peers.classes(bench, case.attack, batch, folder)
        found, missing = peers.of_libraries(bench, case.attack)
        for name, side in found.items():
            yield name, lambda side=side: side
        for name, why in missing.items():
            step.skipped(f"{case}: {name}", why)
    for mode in case.modes:
        if mode.compile:
            yield f"ours, {mode}", ours(mode)
            yield f"limit, {mode}", limit(mode)


def _peak(setting: Setting, side: Side) -> float:
    """Return the GPU memory that a run needs in addition to the memory in use, in MiB; 0 on a CPU."""
    if not setting.on_gpu:
        return 0.0
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    side(1)
    return float(torch.cuda.max_memory_allocated() - before) / 2**20


def _goals(step: Step, case: Case, figures: dict[str, Any], mode_of_spec: Mode) -> None:
    most = 1.1 if case.attack == "MI" else 1.3
    for mode, ratio in figures["times_limit"].items():
        if case.attack == "MI" or case.attack in HARD:
            step.measured(f"goal: {case}, {mode}: at most {most} of the bare passes", is_=ratio, met=ratio <= most)
    ahead = figures["ahead"].get(PEER)
    if not ahead or case.attack != "MI":
        return
    usual = ahead.get(str(mode_of_spec))
    if usual is not None:
        step.measured(f"goal: {case}: the default ({mode_of_spec}) is 1.3 times as fast as TransferAttack's loop",
                      is_=usual, met=usual >= 1.3)  # fmt: skip
    best = max(ahead, key=ahead.__getitem__)
    step.measured(f"goal: {case}: the fastest mode ({best}) is three times as fast as TransferAttack's loop",
                  is_=ahead[best], met=ahead[best] >= 3)  # fmt: skip


def _success(setting: Setting, step: Step, network: str, batch: int) -> None:
    """Compare the success of MI with ten steps, in each precision and in TransferAttack's loop.

    Success is counted on the source network, and on the same network with other weights.
    """
    side = setting.sizes.side
    bench = Bench(setting.reference(network, side), setting.device, setting.threads, batch, side)
    prepare(setting.threads, setting.device)
    source = bench.model(ours=True)
    other = setting.load(network, side, weights=1)
    labels = predict(source, bench.clean, batch=batch, device=setting.device).top5[:, 0]
    elsewhere = predict(other, bench.clean, batch=batch, device=setting.device).top5[:, 0]
    bench.labels = labels.astype(np.int64)
    made = {PEER: peers.adversarial(bench, "MI", setting.sizes.peer_batch, STEPS).numpy()}
    for precision in setting.timed_precisions:
        made[f"ours, {Mode(precision)}"] = bench.adversarial("MI", STEPS, precision)
    prepare(setting.threads, setting.device)
    figures: dict[str, Any] = {"images": batch}
    parted = []
    for judge, model, before in (("source", source, labels), ("other weights", other, elsewhere)):
        rates = {
            name: int((predict(model, pixels, batch=batch, device=setting.device).top5[:, 0] != before).sum())
            for name, pixels in made.items()
        }
        figures[judge] = rates
        low, high = interval(rates[PEER], batch)
        for name, hits in rates.items():
            least, most = interval(hits, batch)
            if most < low or least > high:
                parted.append(f"{name} on the {judge}: {hits}, the loop {rates[PEER]}")
    step.check("success", not parted, f"outside of the 95 % intervals: {'; '.join(parted)}", **figures)


def interval(hits: int, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of the rate `hits` / `count`."""
    z, share = 1.96, hits / count
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * (share * (1 - share) / count + z**2 / (4 * count**2)) ** 0.5 / (1 + z**2 / count)
    return centre - half, centre + half
