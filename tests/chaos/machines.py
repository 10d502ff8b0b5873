"""A Ray cluster of several machines on this one, which may be lost and joined while a study runs.

It lives in a process of its own, which ends it when the pipe to it closes: so it does not outlive who asked for it,
however that ends. `ray.cluster_utils` makes its process the leader of a process group, which a test runner must not be.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.chaos.processes import ROOT, alive, descendants, gone, quiet_environment

_STORE_BYTES = 100 * 2**20
_END_SECONDS = 60.0


class Machines:
    """While entered: a head with no cores, where the driver connects, and machines with a core each.

    Attributes:
        address: host:port of the head.
        nodes: The process id of every machine's raylet, below which are its actors.
    """

    def __init__(self, count: int = 2) -> None:
        self._count = count
        self._seen: set[int] = set()
        self.address = ""
        self.nodes: list[int] = []

    def __enter__(self) -> Machines:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.machines"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env=quiet_environment(),
            start_new_session=True,
        )
        try:
            self.address = self._ask("head")
            for _ in range(self._count):
                self.join()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._end()

    def join(self) -> int:
        """One more machine; the process id of its raylet."""
        self.nodes.append(int(self._ask("join")))
        return self.nodes[-1]

    def lose(self, node: int) -> None:
        """A machine, and all that runs on it, is gone from one moment to the next."""
        self.nodes.remove(node)
        self._ask("lose", node)

    def _ask(self, *words: str | int) -> Any:
        assert self._process.stdin is not None, "it was started with a pipe"
        assert self._process.stdout is not None, "it was started with a pipe"
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the process that holds the cluster ended while it was asked to {words[0]}"
        self._seen |= descendants(self._process.pid)
        return json.loads(answer)

    def _end(self) -> None:
        self._seen |= descendants(self._process.pid)
        self._process.stdin.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if not gone(self._seen, 5):
            for pid in alive(self._seen):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._process.stdout.close()


def serve() -> None:
    """Answer the words that come in over standard input, until there are no more."""
    # Ray prints to standard output: only answers may go there.
    answers, sys.stdout = sys.stdout, sys.stderr
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": _STORE_BYTES, "include_dashboard": False},
    )
    nodes: dict[int, Any] = {}
    try:
        for line in sys.stdin:
            word, *more = json.loads(line)
            answer: Any = cluster.address
            if word == "join":
                node = cluster.add_node(num_cpus=1, object_store_memory=_STORE_BYTES)
                answer = node.all_processes["raylet"][0].process.pid
                nodes[answer] = node
            elif word == "lose":
                below = descendants(more[0])
                cluster.remove_node(nodes.pop(more[0]), allow_graceful=False)
                for pid in alive(below):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                answer = len(below)
            print(json.dumps(answer), file=answers, flush=True)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))
    serve()
