"""What rounds a float beside the spec: recorded by the first launch, compared by every other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import torch

from study.errors import StudyError
from study.reproducibility import float_environment, hardware
from study.reproducibility.float_environment import Arithmetic
from study.storage.run_folder import RunFolder
from tests.conftest import ROOT, TINY

PLAIN = Arithmetic("AMD EPYC", "AVX2", {"torch": "2.9.0"}, {})
INTEL = replace(PLAIN, processor="Intel Xeon", capability="AVX512")
SLOW = replace(PLAIN, environment={"MKL_CBWR": "COMPATIBLE"})
GPU_RELEASES = {"torch": "2.11.0", "cuda": "13.0", "cudnn": "91002", "driver": "580.65.06"}
H100 = Arithmetic("NVIDIA H100 80GB HBM3", "sm_90, 132 multiprocessors, AVX512", GPU_RELEASES,
                  {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"})  # fmt: skip
A100 = replace(H100, processor="NVIDIA A100-SXM4-80GB", capability="sm_80, 108 multiprocessors, AVX2")
UPDATED = replace(H100, releases=GPU_RELEASES | {"driver": "590.1"})


@pytest.fixture
def folder(tmp_path):
    found = RunFolder(tmp_path / "run")
    found.claim()
    yield found
    found.release()


def said(folder, *workers, **options):
    lines: list[str] = []
    float_environment.compare(folder, set(workers), lines.append, **options)
    return lines


def test_it_is_read_where_it_is_computed():
    code = "from study.reproducibility import float_environment as f; print(f.text([f.here('cpu')]))"
    # This machine may set some of them itself.
    others = {
        name: value for name, value in os.environ.items() if name not in float_environment.here("cpu").environment
    }
    given = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "OMP_NUM_THREADS": "3"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=others | given, cwd=ROOT, capture_output=True, text=True, check=True
    )
    (found,) = json.loads(done.stdout)
    assert found["environment"] == {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"}
    assert found["capability"] == "DEFAULT"
    assert {"torch", "timm", "numpy", "pillow"} <= found["releases"].keys()
    assert found["processor"] == float_environment.here("cpu").processor


def test_another_processor_is_said_once_and_recorded(folder):
    assert said(folder, PLAIN) == []
    assert said(folder, PLAIN) == []
    (line,) = said(folder, INTEL)
    assert "Intel Xeon (AVX512), torch 2.9.0; before: AMD EPYC (AVX2), torch 2.9.0" in line
    assert said(folder, INTEL, PLAIN) == []
    assert float_environment.recorded(folder) == [PLAIN, INTEL]
    assert len({one["digest"] for one in json.loads(folder.arithmetic.read_text())["workers"]}) == 2


def test_workers_of_one_launch_that_differ_are_named(folder):
    (line,) = said(folder, PLAIN, INTEL)
    assert "AMD EPYC (AVX2), torch 2.9.0; Intel Xeon (AVX512)" in line
    with pytest.raises(StudyError, match=r"another worker has (no )?MKL_CBWR"):
        said(RunFolder(folder.path / "another"), PLAIN, SLOW)
    assert not (folder.path / "another").exists()


@pytest.mark.parametrize(("before", "now", "message"), [
    (PLAIN, SLOW, "has MKL_CBWR=COMPATIBLE in its environment, but the rows in .* were computed with no MKL_CBWR"),
    (SLOW, PLAIN, "has no MKL_CBWR in its environment, but the rows in .* were computed with MKL_CBWR=COMPATIBLE"),
])  # fmt: skip
def test_another_environment_is_refused(folder, before, now, message):
    said(folder, before)
    with pytest.raises(StudyError, match=message) as caught:
        said(folder, now)
    assert "set or unset MKL_CBWR" in str(caught.value)
    assert float_environment.recorded(folder) == [before]


@pytest.mark.parametrize(
    ("before", "now"), [(H100, A100), (H100, PLAIN), (PLAIN, H100)], ids=["another GPU", "a processor", "a GPU"]
)
def test_another_device_is_refused_unless_it_is_allowed(folder, before, now):
    said(folder, before)
    with pytest.raises(StudyError, match=f"computed on {before.device}, .* has {now.processor}") as caught:
        said(folder, now)
    assert "--other-devices" in (caught.value.todo or "")
    assert float_environment.recorded(folder) == [before]
    (line,) = said(folder, now, other_devices=True)
    assert now.processor in line
    assert said(folder, now) == []


def test_another_driver_is_said(folder):
    said(folder, H100)
    (line,) = said(folder, UPDATED)
    assert "cuda 13.0, cudnn 91002, driver 590.1" in line
    assert "driver 580.65.06" in line


def test_a_cluster_with_two_kinds_of_gpu_is_said_and_may_go_on_with_either(folder):
    (line,) = said(folder, H100, A100)
    assert "several kinds of processors or libraries" in line
    assert A100.processor in line
    assert said(folder, A100) == said(folder, H100) == []


def test_new_gpus_are_compared_with_each_other_too(folder):
    """The record has only rows of a CPU, on which variables of GPUs have no effect."""
    said(folder, PLAIN)
    other = replace(H100, environment=H100.environment | {"NVIDIA_TF32_OVERRIDE": "0"})
    with pytest.raises(StudyError) as caught:
        said(folder, H100, other, other_devices=True)
    both = {"NVIDIA_TF32_OVERRIDE=0", "no NVIDIA_TF32_OVERRIDE"}
    assert caught.value.what in {
        f"a worker (NVIDIA H100 80GB HBM3) has {one} in its environment, but another worker has {another}: this "
        "changes rounding"
        for one in both
        for another in both - {one}
    }
    assert float_environment.recorded(folder) == [PLAIN]
    assert len(said(folder, H100, A100, other_devices=True)) == 1


def test_what_is_read_of_a_gpu(monkeypatch, tmp_path):
    """Queries of CUDA are replaced: there is none here."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    found = SimpleNamespace(major=9, minor=0, multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: found)
    version = tmp_path / "version"
    version.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27\nGCC version:  gcc 12.3\n"
    )
    monkeypatch.setattr(hardware, "_DRIVER", version)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    gpu = float_environment.here("cuda:0")
    assert (gpu.device, gpu.releases["driver"]) == ("NVIDIA H100 80GB HBM3", "580.65.06")
    assert gpu.capability.startswith("sm_90, 132 multiprocessors, ")
    assert {"cuda", "cudnn"} <= gpu.releases.keys()
    assert gpu.environment["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    here = float_environment.here("cpu")
    assert here.device == "a processor"
    assert "CUBLAS_WORKSPACE_CONFIG" not in here.environment


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build  (dvs)", "550.54.15"),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.256.02  Thu May  2 14:37:44 UTC 2024", "470.256.02"),
        ("something else", None),
    ],
)
def test_releases_of_drivers(text, release):
    assert hardware.driver_release(text) == release


def test_variables_of_gpus_do_not_part_processors(folder):
    """An earlier version recorded them for processors too."""
    said(folder, replace(PLAIN, environment={"CUBLAS_WORKSPACE_CONFIG": ":16:8"}))
    assert said(folder, PLAIN) == []


@pytest.mark.parametrize("text", ["{", "[]", '{"workers": [3]}'])
def test_a_damaged_record_is_named(folder, text):
    folder.arithmetic.write_text(text)
    with pytest.raises(StudyError, match="is damaged"):
        float_environment.recorded(folder)


def test_a_launch_elsewhere(door, spec_file, monkeypatch, tmp_path):
    """The door refuses rows of another arithmetic, with status 2, and says which rows are of which processor."""
    spec = spec_file(TINY.replace("[optimization, fg, fgs, mi]", "[mi]").replace("  ensembles:", "#"))
    run = tmp_path / "run"
    assert door("launch", spec, "--output", run, "--limit", 2)[0] == 1
    part = next((run / "results").iterdir())
    (one,) = json.loads(pq.read_schema(part).metadata[b"arithmetic"])
    assert one == {key: value for key, value in json.loads((run / "arithmetic.json").read_text())["workers"][0].items()
                   if key != "digest"}  # fmt: skip
    before = sorted(path.name for path in (run / "results").iterdir())
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    status, _, error = door("launch", spec, "--output", run)
    assert status == 2
    assert "MKL_CBWR=COMPATIBLE" in error
    assert sorted(path.name for path in (run / "results").iterdir()) == before
    monkeypatch.delenv("MKL_CBWR")
    monkeypatch.setattr(float_environment, "hardware", lambda device: "Another Processor")
    status, printed, error = door("launch", spec, "--output", run, "--limit", 2)
    assert status == 1, error
    assert "may round differently than earlier ones: Another Processor" in printed
    assert "rows come from several kinds of processor" in door("verify", run)[1]
    assert "Another Processor" in door("show", run)[1]
