"""Hosts that are namespaces of this machine: own addresses, names, processes, and shared memory; one file system."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent

# The first process of a host reaps orphans, as init does, and ends with the process that made the host.
_INIT = """
import os, sys, threading, time
threading.Thread(target=lambda: os._exit(0 * len(sys.stdin.read())), daemon=True).start()
while True:
    try:
        os.wait()
    except ChildProcessError:
        time.sleep(0.1)
"""
_PREPARE = (
    "mount --make-rprivate / && mount -t tmpfs tmpfs /dev/shm && mkdir -p /tmp/ray && mount -t tmpfs tmpfs /tmp/ray && "
    'hostname "$1" && ip link set lo up && shift && exec "$@"'
)


def refused() -> str | None:
    """Why hosts cannot be made here; None where they can."""
    try:
        tried = subprocess.run(
            [*_UNSHARE, "sh", "-c", _PREPARE, "sh", "trial", "ip", "link", "add", "type", "veth"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"namespaces cannot be made: {error}"
    return f"namespaces are refused: {tried.stderr.strip()}" if tried.returncode else None


_UNSHARE = ("unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")


@dataclass
class Host:
    """One of them, on 10.77.0.0/24."""

    name: str
    address: str
    outer: subprocess.Popen[bytes]
    init: int

    def start(self, *words: object, env: Mapping[str, str] | None = None, **more: object) -> subprocess.Popen[str]:
        """Start a command on this host, with the environment of this process but for Ray's."""
        plain = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": ROOT} | more
        inside = ["nsenter", f"--target={self.init}", "--net", "--uts", "--mount", "--pid"]
        return subprocess.Popen(
            [*inside, f"--wd={options.pop('cwd')}", *map(str, words)],
            env=plain | {"PATH": f"{BIN}:{os.environ['PATH']}", "NO_PROXY": "*", **(env or {})},
            **options,
        )

    def run(self, *words: object, seconds: float = 180, env: Mapping[str, str] | None = None) -> tuple[int, str]:
        """The exit status of a command, and what it has printed."""
        process = self.start(*words, env=env)
        try:
            printed, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return process.returncode, printed

    def ray(self, *words: object, env: Mapping[str, str] | None = None) -> str:
        """What `ray` prints; it must succeed."""
        status, printed = self.run(BIN / "ray", *words, env={"RAY_USAGE_STATS_ENABLED": "0", **(env or {})})
        assert status == 0, printed
        return printed

    def link(self, state: str) -> None:
        """Plug the cable in (`up`), or pull it (`down`)."""
        status, printed = self.run("ip", "link", "set", "eth0", state)
        assert status == 0, printed

    def crash(self) -> None:
        """All its processes are gone at once, and no connection is closed in order."""
        self.link("down")
        os.kill(self.init, signal.SIGKILL)
        self.outer.wait(timeout=30)

    def end(self) -> None:
        if self.outer.poll() is None:
            os.kill(self.init, signal.SIGKILL)
            self.outer.wait(timeout=30)


@contextmanager
def hosts(count: int = 2) -> Iterator[list[Host]]:
    """So many hosts on one network, named host1, host2 …; nothing is left of them afterwards."""
    with ExitStack() as stack:
        switch = _host("switch", "10.77.0.254", stack)
        _in(switch, "ip link add br0 type bridge && ip addr add 10.77.0.254/24 dev br0 && ip link set br0 up")
        made = []
        for number in range(1, count + 1):
            host = _host(f"host{number}", f"10.77.0.{number}", stack)
            _in(
                switch,
                f"ip link add port{number} type veth peer name eth0 netns /proc/{host.init}/ns/net && "
                f"ip link set port{number} master br0 up",
                see_all=True,
            )
            _in(host, f"ip addr add {host.address}/24 dev eth0 && ip link set eth0 up")
            made.append(host)
        yield made


def _host(name: str, address: str, stack: ExitStack) -> Host:
    words = [*_UNSHARE, "sh", "-c", _PREPARE, "sh", name, sys.executable, "-c", _INIT]
    outer = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
    while time.monotonic() < deadline:
        init = children.read_text().split()
        # Its namespaces are ready once the last command of the preparation runs.
        if init and Path(f"/proc/{init[0]}/cmdline").read_bytes().startswith(os.fsencode(sys.executable)):
            host = Host(name, address, outer, int(init[0]))
            stack.callback(host.end)
            return host
        assert outer.poll() is None, f"{name} could not be made"
        time.sleep(0.02)
    outer.kill()
    raise AssertionError(f"{name} could not be made in time")


def _in(host: Host, script: str, *, see_all: bool = False) -> None:
    """Run a script on a host; `see_all`: with the processes of this machine in sight."""
    if see_all:
        words = ["nsenter", f"--target={host.init}", "--net", "sh", "-c", script]
        subprocess.run(words, check=True)
        return
    status, printed = host.run("sh", "-c", script)
    assert status == 0, printed
