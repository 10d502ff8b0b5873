"""A local S3 server, and a proxy in front of it that cuts connections on demand."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Literal

BUCKET = "studies"
When = Literal["before", "during", "after"]


def environment(port: int) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "a-secret-that-is-shown-nowhere",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ALLOW_HTTP": "true",
    }


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


@contextlib.contextmanager
def serving() -> Iterator[int]:
    """The port of a server with one empty bucket."""
    port = free_port()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=clean,
    )  # fmt: skip
    try:
        for _ in range(300):
            assert process.poll() is None, "the server has ended"
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=5).read()
                break
            time.sleep(0.1)
        made = urllib.request.Request(f"http://127.0.0.1:{port}/{BUCKET}", method="PUT")
        urllib.request.urlopen(made, timeout=30).read()
        yield port
    finally:
        process.kill()
        process.wait()


class Proxy:
    """Forwards requests, one connection each; `cut` decides from a request's first line when to break it off."""

    def __init__(self, behind: int) -> None:
        self._behind = behind
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.cut: Callable[[str], When | None] = lambda line: None
        self.seen: list[str] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                there, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=[there], daemon=True).start()

    def _serve(self, there: socket.socket) -> None:
        with there, contextlib.suppress(OSError):
            request = b""
            while b"\r\n\r\n" not in request:
                more = there.recv(65536)
                if not more:
                    return
                request += more
            head, _, body = request.partition(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            self.seen.append(lines[0])
            when = self.cut(lines[0])
            if when == "before":
                return
            fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            length = int(fields.get("content-length", "0"))
            while len(body) < (length // 2 if when == "during" else length):
                body += there.recv(65536)
            kept = [line for line in lines if not line.lower().startswith(("connection:", "expect:"))]
            with socket.create_connection(("127.0.0.1", self._behind), timeout=60) as server:
                server.sendall("\r\n".join([*kept, "Connection: close", "", ""]).encode("latin-1"))
                server.sendall(body[: length // 2] if when == "during" else body)
                if when == "during":
                    return
                answer = b""
                while more := server.recv(65536):
                    answer += more
            if when != "after":
                there.sendall(answer)
