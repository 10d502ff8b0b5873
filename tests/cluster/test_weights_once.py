"""Workers of one machine that want the same weights at the same time: one of them downloads, the others wait."""

from __future__ import annotations

import hashlib
import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torchvision import models

ROOT = Path(__file__).resolve().parents[2]
PROCESSES = 2

# The address of torchvision's weights is that of the test's own server; then all is as in a worker.
CHILD = """
import sys
from torchvision.models import SqueezeNet1_1_Weights
from study.models.reference import Model

object.__setattr__(SqueezeNet1_1_Weights.IMAGENET1K_V1.value, "url", sys.argv[2])
model = Model(network="torchvision:squeezenet1_1/IMAGENET1K_V1")
sys.stdin.read()
if sys.argv[1] == "bring":
    from study.models.weights import fetch
    fetch.bring(model)
else:
    from study.models import zoo
    print(zoo.load("m", model).digest)
"""


@pytest.fixture
def host(tmp_path):
    """A server that holds its one file back until `wanted` is set: the paths requested, that event, and its address."""
    torch.manual_seed(0)
    file = tmp_path / "weights.pth"
    torch.save(models.squeezenet1_1().state_dict(), file)
    content, asked, wanted = file.read_bytes(), [], threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            asked.append(self.path)
            wanted.wait(60)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    digits = hashlib.sha256(content).hexdigest()[:8]
    yield asked, wanted, f"http://127.0.0.1:{server.server_address[1]}/squeezenet1_1-{digits}.pth"
    wanted.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("how", ["bring", pytest.param("load", marks=pytest.mark.slow)])
def test_one_download_for_all_processes(host, tmp_path, how):
    asked, wanted, url = host
    home = tmp_path / "cache"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, how, url],
            cwd=ROOT,
            env=os.environ | {"TORCH_HOME": str(home), "NO_PROXY": "*", "no_proxy": "*"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(PROCESSES)
    ]
    try:
        for process in processes:
            process.stdin.close()
            process.stdin = None
        # Until one has asked and the others hold the lock's file open; or, were there no lock, until all have asked.
        _until(lambda: len(asked) >= min(PROCESSES, 1 + PROCESSES - sum(_wants(one, home) for one in processes)))
        wanted.set()
        said = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0] * PROCESSES, said
    assert len({printed for printed, _ in said}) == 1
    assert len(asked) == 1


def _wants(process: subprocess.Popen, home: Path) -> bool:
    """Whether a process has a file of the cache open."""
    descriptors = Path(f"/proc/{process.pid}/fd")
    try:
        return any(os.readlink(one).startswith(f"{home}/") for one in descriptors.iterdir())
    except OSError:
        return False


def _until(true, seconds: float = 120) -> None:
    waited = threading.Event()
    for _ in range(int(seconds / 0.1)):
        if true():
            return
        waited.wait(0.1)
    raise AssertionError("not in time")
