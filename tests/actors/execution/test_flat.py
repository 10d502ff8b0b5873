"""What the driver does for a unit does not depend on the number of units: calls of Python functions are counted."""

from __future__ import annotations

import sys
from collections import Counter

import polars as pl
import pytest

from actors.backends.simulated import Costs, Machines, Simulated
from actors.execution.attack_runs import AttackRuns
from actors.execution.driver import Progress, drive
from actors.execution.matched_budgets import ReferenceRmsd
from actors.execution.row_sink import RowSink
from actors.execution.runtime import Runtime
from actors.resources import placement
from actors.scheduling.limits import Limits
from actors.scheduling.scheduler import Scheduler
from actors.workers.worker_config import WorkerConfig
from study.events.observer import Started
from study.events.run_state import RunState
from study.images.selection import Clean, Selected, Shard
from study.planning.plan import Plan
from study.process.interrupt import Interrupt
from study.results.writer import Writer
from study.spec.loading import resolve
from study.spec.yaml_document import parse
from study.storage.run_folder import RunFolder

SPEC = """
study: flat
images: {sample: foolbox, size: 8, keep: all}
models:
  a: {network: "timm:test_resnet", weights: "random:0"}
  b: {network: "timm:test_resnet", weights: "random:1"}
attacks: {mi: {}, fgs: {budget: {rmsd: matched, to: mi, by: mean}}}
experiments: {x: {attacks: [ATTACKS], sources: each}}
run: {flush_seconds: 1000}
"""


def plan_of(shards, attacks="mi"):
    spec = resolve(parse(SPEC.replace("ATTACKS", attacks), "flat")).spec
    clean = {name: Clean((0,), (1.0,)) for name in spec.models}
    images = [Shard(number, (Selected(f"{number:05d}", 0, 1, f"{number:064d}", clean),)) for number in range(shards)]
    return Plan(spec, dict.fromkeys(spec.models, "0" * 64), images)


class NoImages:
    def of(self, unit, pool):
        return -1


class Counted:
    """Counts the calls of Python functions while it is entered."""

    def __enter__(self):
        self.calls = Counter()
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)

    def _note(self, frame, event, _):
        if event == "call":
            self.calls[frame.f_code.co_qualname] += 1


def calls(plan, folder):
    """Run a plan on simulated workers; return the calls of Python functions in the driver."""
    spec, units = plan.spec, len(plan.crafts) * len(plan.shards)
    each = dict.fromkeys(spec.models, 1e-6)
    backend = Simulated(Costs(each, each, each, call=1e-6, driver=0.0), Machines(2, gpus=False), batch=8)
    config = WorkerConfig(spec.models, spec.labels, 3, 0, spec.numerics)
    pool = placement.plan_workers(backend.machines(), None, placement.WorkerOptions())
    scheduler = Scheduler(backend, pool, config, limits=Limits(), clock=backend.clock)
    scheduler.start(lambda: None)
    run = RunFolder(folder)
    run.claim()
    state = RunState("flat", backend.clock)
    totals = {"x": units}
    state.started(Started(plan, "", {}, totals, {}, units, 2, "cpu", backend.name))
    with Interrupt() as interrupt:
        runtime = Runtime(backend, scheduler, state, interrupt)
        rows = RowSink(plan, Writer(run, flush_seconds=1000, metadata={}), NoImages(), backend)
        attacks = AttackRuns(plan, NoImages(), rows, runtime, progress=Progress(totals, {}, units), done={}, rmsd={})
        with Counted() as counted:
            drive(attacks, runtime)
    assert attacks.outcome.finished == units
    assert pl.scan_parquet(run.results).select(pl.len()).collect().item() == plan.pairs
    run.release()
    return counted.calls


@pytest.mark.parametrize("attacks", ["mi", "mi, fgs"])
def test_four_times_the_units_are_four_times_the_work(attacks, tmp_path):
    # The first run also imports what is imported at first use.
    sizes = (5, 50, 100, 400)
    _, few, some, many = (calls(plan_of(shards, attacks), tmp_path / str(shards)).total() for shards in sizes)
    assert (many - some) / 300 == pytest.approx((some - few) / 50, rel=0.1)


def test_a_reference_is_not_searched_for_each_of_its_units():
    """A matched budget waits for all units of its reference: whether they are done is asked after each."""
    plan = plan_of(30, "mi, fgs")
    reference, matched = next(
        (plan.crafts[craft.reference], craft) for craft in plan.crafts.values() if craft.reference is not None
    )
    known = {reference.id: {shard.images[0].image: 1.0 for shard in plan.shards[:10]}}
    rmsd = ReferenceRmsd(plan, known)
    units = list(plan.units_of(reference))
    plan.shards = None  # what follows has no use for it
    for number, unit in enumerate(units[5:]):
        assert not rmsd.complete(matched)
        assert rmsd.learn(unit, [2.0]) == (number >= 5)
    assert rmsd.complete(matched)
