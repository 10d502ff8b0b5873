"""`numerics.precision: auto`: the first launch decides by the kind of device; folder and ids have its choice."""

from __future__ import annotations

import io
import json

import pyarrow.parquet as pq
import pytest

from actors.backends.in_process import InProcess
from actors.launch.launch import launch
from actors.launch.options import LaunchOptions
from actors.resources.placement import Machine
from actors.workers.worker import Worker
from study.errors import StudyError
from study.planning import resume
from study.results import run_reader
from study.spec import loading
from study.storage.run_folder import RunFolder
from study.terminal.console import Console
from tests.conftest import rows

SPEC = """
study: settled
seed: 1
images: {sample: foolbox, size: 32, keep: all, count: 2}
models:
  a: {network: "timm:test_resnet", weights: "random:1", size: 32}
attacks:
  fgsm: {}
experiments:
  one: {attacks: [fgsm], sources: each}
numerics: {batch: 2, threads: 1}
run: {shard: 2, actors: 1, flush_seconds: 0}
"""


class WithGpu(InProcess):
    """A machine with a GPU, whose worker computes on the processor: there is no GPU here."""

    def machines(self):
        return [Machine(4.0, 1.0)]

    def start(self, role, resources, config):
        assert resources.device == "cuda:0"
        self.given = config.numerics.precision
        return Worker(config.of(role), "cpu")


@pytest.fixture
def spec(tmp_path):
    (tmp_path / "spec.yaml").write_text(SPEC)
    return tmp_path / "spec.yaml"


def run(spec, folder, backend, *overrides, **options):
    printed = io.StringIO()
    given = LaunchOptions(spec, folder, overrides=overrides, **options)
    status = launch(given, Console(file=printed, width=300), lambda: backend)
    assert status == 0, printed.getvalue()
    return printed.getvalue()


def test_the_first_launch_settles_it(spec, tmp_path):
    on_gpu, on_cpu, asked, strict = (tmp_path / name for name in ("gpu", "cpu", "asked", "strict"))
    backend = WithGpu()
    assert "source models compute in tf32" in run(spec, on_gpu, backend)
    assert backend.given == "tf32"
    assert "numerics.precision" not in run(spec, on_cpu, InProcess())
    run(spec, asked, WithGpu(), "numerics.precision=tf32")
    assert "strict, and slow on a GPU" in run(spec, strict, WithGpu(), "numerics.precision=float32")
    recorded = {one: resume.spec_of(RunFolder(one)).numerics.precision for one in (on_gpu, on_cpu, asked, strict)}
    assert list(recorded.values()) == ["tf32", "float32", "tf32", "float32"]
    crafts = {one: rows(one)["craft"][0] for one in recorded}
    assert crafts[on_gpu] == crafts[asked] != crafts[on_cpu] == crafts[strict]
    (part,) = (on_gpu / "results").iterdir()
    assert json.loads(pq.read_schema(part).metadata[b"numerics"])["precision"] == "tf32"


def test_later_launches_and_readers_take_what_stands_in_the_folder(spec, tmp_path):
    folder = tmp_path / "run"
    run(spec, folder, WithGpu())
    run(spec, folder, InProcess())
    assert rows(folder).height == 2
    more = ("attacks.mi.steps=1", "experiments.one.attacks=[fgsm, mi]")
    run(spec, folder, InProcess(), *more)
    assert rows(folder)["craft"].n_unique() == 2
    assert resume.spec_of(RunFolder(folder)).numerics.precision == "tf32"
    (tmp_path / "again.yaml").write_text(loading.load(spec, more).spec.text())
    assert run_reader.open_run(str(folder), tmp_path / "again.yaml").spec.numerics.precision == "tf32"
    other = loading.load(spec, ["numerics.precision=float32", *more])
    with pytest.raises(StudyError, match=r'numerics\.precision is "tf32" there, and "float32" in this spec'):
        resume.same_study(other, RunFolder(folder))
