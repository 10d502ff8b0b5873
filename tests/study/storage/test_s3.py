"""Runs in S3: the same rows as in a folder, one driver, and no row twice however connections break."""

from __future__ import annotations

import json
import sys
import time

import polars as pl
import pytest

pytest.importorskip("obstore")
pytest.importorskip("moto.server")

from study.errors import StudyError
from study.events import repairs
from study.results import scanning
from study.results.compact import compact
from study.results.verify import verify
from study.results.writer import Writer
from study.storage import lease as storage_lease
from study.storage import s3_path
from study.storage.paths import storage_path
from study.storage.run_folder import RunFolder
from study.storage.s3 import LeaseObject
from study.storage.s3_path import S3Path, scan_options
from tests.conftest import run_here
from tests.s3 import BUCKET, Proxy, environment, free_port, serving
from tests.study.conftest import SMALL
from tests.study.crashing import DEAD
from tests.study.results.test_writer import unit_rows


@pytest.fixture(scope="module")
def server():
    with serving() as port:
        yield port


@pytest.fixture
def proxy(server, monkeypatch):
    """A proxy in front of the server, which the environment names as the endpoint."""
    standing = Proxy(server)
    for name, value in environment(standing.port).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(storage_lease, "SECONDS", 1.5)
    yield standing
    standing.close()


@pytest.fixture
def run(proxy, request):
    return f"s3://{BUCKET}/runs/{abs(hash(request.node.name))}"


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(SMALL)
    return path


def rows(run):
    frame = pl.scan_parquet(f"{run}/results/", storage_options=scan_options()).collect()
    return frame.sort("unit", "target")


def test_places(tmp_path):
    assert storage_path("s3://bucket/a/b/") == S3Path("bucket", "a/b")
    assert storage_path(tmp_path) == tmp_path
    # A command line parser removes one slash.
    assert str(storage_path("s3:/bucket/a")) == "s3://bucket/a"
    for wrong in ("s3://bucket", "gs://bucket/a", "https://host/a"):
        with pytest.raises(StudyError):
            storage_path(wrong)


@pytest.fixture(scope="module")
def undisturbed(small):
    return scanning.scan(small[2]).collect().sort("unit", "target")


@pytest.fixture
def uploaded(run, small):
    """The small run, copied into S3."""
    folder = RunFolder(run)
    for path in small[2].rglob("*"):
        if path.is_file() and path.name != "lease":
            folder.publish(storage_path(f"{run}/{path.relative_to(small[2])}"), path.read_bytes())
    return run


def test_a_study_in_an_object_store(door, run, spec, undisturbed, tmp_path):
    status, printed, error = door("launch", spec, "--output", run)
    assert status == 0, error
    flat = printed.replace("\n", "")
    assert f"study show {run}" in flat
    assert f"study.load('{run}').rows" in flat
    assert rows(run).equals(undisturbed)
    assert scanning.scan(run).collect().sort("unit", "target").equals(undisturbed)
    assert "already complete" in door("launch", spec, "--output", run)[1]
    assert "all, untargeted" in door("show", run)[1]
    assert door("verify", run)[0] == 0
    status, _, error = door("launch", spec, "--output", run, "--set", "seed=5")
    assert status == 2
    assert "belongs to another spec: seed is 0 there, and 5 in this spec" in error
    everything = printed + error + json.dumps(verify(run).to_json())
    assert "a-secret-that-is-shown-nowhere" not in everything
    for part in storage_path(run).rglob():
        assert b"a-secret-that-is-shown-nowhere" not in part.read_bytes()


def test_answers_from_an_object_store(door, run, spec, undisturbed, tmp_path, monkeypatch):
    """Every command that reads a run, with kept images, probes, and a target added later."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kept = SMALL.replace("run: {", "run: {keep_images: true, ")
    probes = "geometry: {cosine: {probe: gradient-cosine}}\n"
    spec.write_text(kept + probes)
    status, _, error = door("launch", spec, "--output", run)
    assert status == 0, error
    assert rows(run).drop("craft", "unit").equals(undisturbed.drop("craft", "unit"))
    for words, says in (
        (("status", run), f"{run}: complete, 4 units"),
        (("table", run, "--experiment", "all", "--format", "csv"), "fgsm"),
        (("geometry", run, "--figures", tmp_path / "drawn"), "mean cosine of gradients"),
        (("images", run, "--to", tmp_path / "pngs"), "2 images"),
        (("report", run), "small-report.html"),
        (("verify", run), "complete and undamaged"),
    ):
        status, printed, error = door(*words)
        assert status == 0, (words, error)
        assert says in printed.replace("\n", ""), printed
    page = (tmp_path / "small-report.html").read_text()
    assert "data:image/png" in page
    assert (tmp_path / "drawn" / "cosine-matrix.png").stat().st_size > 0
    more = kept.replace(
        "attacks:\n", '  c: {network: "timm:test_resnet", weights: "random:3", size: 32}\nattacks:\n', 1
    )
    spec.write_text(more + probes)
    status, printed, error = door("launch", spec, "--output", run)
    assert status == 0, error
    assert "0 units crafted, 2 shown to targets from kept images" in printed
    assert set(rows(run)["target"]) == {"a", "b", "c"}


def test_compacting(door, uploaded, undisturbed):
    assert len(scanning.parts(uploaded)) == 2
    assert "2 parts before, 1 after" in door("compact", uploaded)[1].replace("\n", "")
    assert rows(uploaded).equals(undisturbed)
    assert verify(uploaded).findings == []


@pytest.mark.parametrize("nth", range(6))
def test_a_compaction_that_is_cut(proxy, uploaded, undisturbed, monkeypatch, nth):
    """Only the first `nth` PUTs and DELETEs after the claim reach the store; a whole compaction has five."""
    folder = RunFolder(uploaded)
    folder.claim()
    monkeypatch.setattr(s3_path, "TIMEOUT_SECONDS", 1.0)
    writes = []

    def cut(line):
        if line.startswith(("GET", "HEAD")) or "/lease" in line:
            return None
        writes.append(line)
        return "before" if len(writes) > nth else None

    proxy.cut = cut
    try:
        compact(folder)
        whole = True
    except StudyError:
        whole = False
    proxy.cut = lambda line: None
    monkeypatch.setattr(s3_path, "TIMEOUT_SECONDS", 30.0)
    folder.release()
    assert whole == (nth >= 5), writes
    assert scanning.scan(uploaded).collect().sort("unit", "target").equals(undisturbed)
    again = RunFolder(uploaded)
    again.claim()
    again.release()
    assert rows(uploaded).equals(undisturbed)


@pytest.mark.parametrize("when", ["before", "during", "after"])
@pytest.mark.parametrize("times", [1, 3])
def test_a_put_that_is_cut_is_made_once(proxy, run, when, times):
    folder = RunFolder(run)
    folder.claim()
    left = [times]

    def cut(line):
        if line.startswith("PUT") and "/results/" in line and left[0]:
            left[0] -= 1
            return when
        return None

    proxy.cut = cut
    writer = Writer(folder, flush_seconds=0, metadata={})
    repairs.taken()
    writer.add(unit_rows("u1"))
    writer.flush()
    assert [one.kind for one in repairs.taken()] == ["storage"] * times
    writer.add(unit_rows("u2"))
    writer.flush()
    folder.release()
    assert left == [0]
    assert scanning.scan(run).collect()["unit"].to_list() == ["u1", "u1", "u2", "u2"]


def test_a_store_that_is_gone_for_good(proxy, run, monkeypatch):
    """One error; the next flush publishes the same part under the same name."""
    folder = RunFolder(run)
    folder.claim()
    writer = Writer(folder, flush_seconds=0, metadata={})
    writer.add(unit_rows("u1"))
    monkeypatch.setattr(s3_path, "TIMEOUT_SECONDS", 0.5)
    proxy.cut = lambda line: "after" if "/results/" in line else None
    with pytest.raises(StudyError, match="does not answer") as raised:
        writer.flush()
    assert raised.value.status == 1
    proxy.cut = lambda line: None
    writer.flush()
    folder.release()
    assert scanning.scan(run).collect().height == 2


@pytest.mark.parametrize(("at", "how"), [(4, "before"), (5, "after")], ids=["at the images", "after the first part"])
def test_a_driver_that_dies(crashing, run, spec, undisturbed, at, how):
    """The next driver watches its lease, then takes it over."""
    assert crashing(spec, run, at, how, do="launch in S3")["status"] == DEAD
    status, printed = run_here(spec, storage_path(run))
    assert status == 0, printed
    assert "waiting 2 s to see whether it is renewed" in printed.replace("\n", " ")
    assert "this driver takes the lease" in printed.replace("\n", " ")
    assert rows(run).equals(undisturbed)


def test_a_living_driver_keeps_others_out(run):
    holder = RunFolder(run)
    holder.claim()
    said = []
    with pytest.raises(StudyError, match=r"is in use by process .* the lease now ends 2"):
        RunFolder(run).claim(said.append)
    assert "is leased to process" in said[0]
    holder.release()
    second = RunFolder(run)
    second.claim(said.append)
    assert len(said) == 1
    second.release()


def test_a_driver_that_lost_its_lease_publishes_nothing(run):
    folder = RunFolder(run)
    folder.claim()
    writer = Writer(folder, flush_seconds=0, metadata={})
    writer.add(unit_rows("u1"))
    lease = LeaseObject(storage_path(run) / "lease")
    _, tag = lease.read()
    while lease.write(b'{"holder": "a thief"}', tag) is None:
        _, tag = lease.read()
    deadline = time.monotonic() + 20
    while folder.storage._lease._lost is None and time.monotonic() < deadline:
        time.sleep(0.05)
    with pytest.raises(StudyError, match="has lost its lease: a thief has taken it") as raised:
        writer.flush()
    assert raised.value.status == 1
    folder.release()
    assert not (storage_path(run) / "results").is_dir()
    assert lease.read()[0] == b'{"holder": "a thief"}'


def test_the_answer_to_a_renewal_may_be_lost(proxy, run):
    folder = RunFolder(run)
    folder.claim()
    lost = []

    def cut(line):
        if line.startswith("PUT") and "/lease" in line and len(lost) < 2:
            lost.append(line)
            return "after"
        return None

    proxy.cut = cut
    deadline = time.monotonic() + 20
    while len(lost) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.6)
    folder.publish(folder.path / "file", b"the lease holds")
    folder.release()


def test_no_such_bucket(proxy):
    with pytest.raises(StudyError, match="the bucket nowhere does not exist"):
        RunFolder("s3://nowhere/run").claim()


def test_nobody_there(monkeypatch):
    for name, value in environment(free_port()).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3_path, "TIMEOUT_SECONDS", 1.0)
    with pytest.raises(StudyError, match="the object store does not answer") as raised:
        RunFolder(f"s3://{BUCKET}/run").claim()
    assert raised.value.status == 1


def test_plain_http_is_asked_for(monkeypatch):
    for name, value in environment(free_port()).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    with pytest.raises(StudyError, match="plain HTTP is not allowed"):
        RunFolder(f"s3://{BUCKET}/run").claim()


def test_wrong_credentials(monkeypatch):
    import http.server
    import threading

    class Refuses(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(403)
            self.end_headers()
            self.wfile.write(b"<Error><Code>SignatureDoesNotMatch</Code></Error>")

        def log_message(self, *_): ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as refusing:
        threading.Thread(target=refusing.serve_forever, daemon=True).start()
        for name, value in environment(refusing.server_address[1]).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(StudyError, match="rejects the credentials") as raised:
            RunFolder(f"s3://{BUCKET}/run").claim()
        refusing.shutdown()
    assert "secret-that" not in str(raised.value)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(StudyError, match="needs the package obstore") as raised:
        RunFolder(f"s3://{BUCKET}/run").claim()
    assert "transfer-study[s3]" in str(raised.value)


def test_answers_of_services_stay_here(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = RunFolder("s3://bucket/a/run").answers("m")
    assert found == tmp_path / "study" / "answers" / "bucket" / "a" / "run" / "m.sqlite"
