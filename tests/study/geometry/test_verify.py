"""`study verify` and the rows of probes: whole, missing, changed, twice, foreign."""

from __future__ import annotations

import json
import shutil

import pyarrow.parquet as pq
import pytest
import yaml

from study.storage import part_file
from tests.conftest import TINY, run_here

PROBES = """
geometry:
  cosine: {probe: gradient-cosine, models: [b, c]}
  line: {probe: intervals, along: {gradient_of: c}, distances: {to: 2, by: 1}, models: [c]}
"""


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probed")
    text = TINY.replace("count: 6", "count: 4").replace(
        "single: {attacks: [optimization, fg, fgs, mi], ", "single: {attacks: [mi], "
    )
    (folder / "spec.yaml").write_text(text + PROBES)
    status, printed = run_here(folder / "spec.yaml", folder / "run")
    assert status == 0, printed
    return folder / "run"


@pytest.fixture
def run(probed, tmp_path):
    shutil.copytree(probed, tmp_path / "run")
    return tmp_path / "run"


def parts(run, probe):
    return sorted((run / "geometry" / probe).glob("*.parquet"))


def kinds(door, run) -> tuple[int, set[str], str]:
    status, printed, _ = door("verify", run, "--json")
    found = json.loads(printed)["findings"]
    return status, {one["kind"] for one in found}, printed


def test_whole(door, run):
    status, printed, _ = door("verify", run)
    assert status == 0, printed
    assert "4 of 4 probe units" in printed


def test_a_missing_part(door, run):
    parts(run, "line")[0].unlink()
    status, found, printed = kinds(door, run)
    assert (status, found) == (1, {"incomplete"})
    what = [one["what"] for one in json.loads(printed)["findings"]]
    assert what == ["1 of 4 units of probes has no rows"]
    parts(run, "cosine")[0].unlink()
    what = [one["what"] for one in json.loads(kinds(door, run)[2])["findings"]]
    assert what == ["2 of 4 units of probes have no rows"]


def test_a_changed_bit(door, run):
    part = parts(run, "cosine")[0]
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(bytes(content))
    status, found, printed = kinds(door, run)
    assert status == 1
    assert "damaged" in found
    assert part.name in printed


def test_a_unit_that_is_there_twice(door, run):
    part = parts(run, "line")[0]
    table = pq.read_table(part)
    content = part.read_bytes()
    again = part.with_name(part_file.new_name(memoryview(content), 1))
    again.write_bytes(content)
    status, found, printed = kinds(door, run)
    assert table.num_rows
    assert (status, found) == (1, {"damaged"})
    assert "two parts have the same unit of a probe" in printed


def test_columns_of_another_probe(door, run):
    parts(run, "line")[0].replace(parts(run, "cosine")[0].parent / parts(run, "line")[0].name)
    status, found, printed = kinds(door, run)
    assert status == 1
    assert {"damaged", "incomplete"} <= found
    assert "the file's columns are not those of a" in printed


def test_a_probe_of_an_image_that_is_not_selected(door, run):
    spec = yaml.safe_load((run / "spec.yaml").read_text())
    spec["geometry"]["line"]["images"] = ["nope"]
    (run / "spec.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    status, printed, _ = door("verify", run, "--json")
    found = json.loads(printed)
    assert status == 1
    assert (found["probes"], found["probes_expected"]) == (4, None)
    assert {
        "kind": "damaged",
        "what": "probes cannot be planned: the image 'nope' is not selected",
        "where": f"{run / 'spec.yaml'}: geometry.line.images",
        "todo": "name another image, or relax images.keep or images.count",
    } in found["findings"]
