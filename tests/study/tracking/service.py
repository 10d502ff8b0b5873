"""A server that stands in for Weights & Biases: what runs send lands in memory, and it can be made to misbehave.

    python tests/study/tracking/service.py [SEED]

Prints its address, and serves until its input ends; with a seed it is hostile.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

KEY = "0123456789" * 4


class Service:
    """`runs` by id: `history` (its lines by number), `config`, `summary`, `exit` (its status), `files` by path, and
    `artifacts` by name: whether it is `committed`, and its `files` with their contents, `manifest` among them.

    `fault` is asked before every answer: it may sleep, return bytes to answer instead, or raise OSError to hang up.
    """

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.requests: list[str] = []
        self._artifacts: dict[str, dict[str, Any]] = {}
        self.fault: Callable[[str], bytes | None] = lambda what: None
        self.lock = threading.Lock()
        self.address = ""

    def run(self, name: str) -> dict[str, Any]:
        return self.runs.setdefault(
            name, {"history": {}, "config": {}, "summary": {}, "exit": None, "artifacts": {}, "files": {}}
        )

    def history(self, name: str) -> list[dict[str, Any]]:
        lines = self.run(name)["history"]
        assert sorted(lines) == list(range(len(lines))), "there is a hole in what the server has"
        return [json.loads(lines[number]) for number in sorted(lines)]

    def answer(self, path: str, body: bytes) -> Any:
        if path.startswith("/graphql"):
            asked = json.loads(body)
            return {"data": self._graphql(asked["query"], asked.get("variables") or {})}
        if path.endswith("/file_stream"):
            self._stream(path.split("/")[-2], json.loads(body))
        if path.startswith(("/file/", "/artifact/")):
            _, kind, owner, name = unquote(path).split("/", 3)
            (self.run(owner) if kind == "file" else self._artifacts[owner])["files"][name] = body
        return {}

    def _stream(self, name: str, given: dict[str, Any]) -> None:
        run = self.run(name)
        if given.get("complete"):
            run["exit"] = given.get("exitcode")
        for file, part in (given.get("files") or {}).items():
            if file == "wandb-history.jsonl":
                for number, line in enumerate(part["content"], part["offset"]):
                    run["history"][number] = line
            elif file == "wandb-summary.json":
                run["summary"] = json.loads(part["content"][-1])

    def _graphql(self, query: str, given: dict[str, Any]) -> dict[str, Any]:  # noqa: PLR0911
        with self.lock:
            if "RunResumeStatus" in query:
                owner = {"id": "p", "name": "p", "entity": {"id": "e", "name": "e"}}
                return {"model": {**owner, "bucket": self._resumed(given["name"])}}
            if "upsertBucket" in query:
                new = given["name"] not in self.runs
                run = self.run(given["name"])
                run["config"] |= json.loads(given["config"] or "{}")
                run |= {key: given[key] for key in ("groupName", "tags") if given.get(key)}
                project = {"id": "p", "name": given["project"], "entity": {"id": "e", "name": "e"}}
                bucket = {"id": given["name"], "name": given["name"], "displayName": given["displayName"],
                          "description": "", "config": "{}", "sweepName": None, "project": project,
                          "historyLineCount": len(run["history"])}  # fmt: skip
                return {"upsertBucket": {"bucket": bucket, "inserted": new}}
            if "createArtifact(" in query:
                wanted = given["input"]
                name = f"a{len(self._artifacts)}"
                self._artifacts[name] = one = {"committed": False, "files": {}, "type": wanted["artifactTypeName"]}
                self.run(wanted["runName"])["artifacts"][wanted["artifactCollectionName"]] = one
                made = {"id": name, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
                return {"createArtifact": {"artifact": made}}
            if "ArtifactManifest (" in query:
                name = given.get("artifactID") or given["artifactManifestID"]
                place = {"id": name, "uploadUrl": f"{self.address}/artifact/{name}/manifest", "uploadHeaders": []}
                what = "createArtifactManifest" if "createArtifactManifest(" in query else "updateArtifactManifest"
                return {what: {"artifactManifest": {"id": name, "file": place}}}
            if "createArtifactFiles(" in query:
                nodes = []
                for file in given["input"]["artifactFiles"]:
                    where = f"{self.address}/artifact/{file['artifactID']}/{file['name']}"
                    nodes.append({"name": file["name"], "storagePath": file["name"], "uploadUrl": where,
                                  "uploadHeaders": [], "uploadMultipartUrls": None,
                                  "artifact": {"id": file["artifactID"]}})  # fmt: skip
                return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}
            if "commitArtifact(" in query:
                self._artifacts[given["artifactID"]]["committed"] = True
                return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": ""}}}
            if "Viewer" in query or "viewer" in query:
                return {"viewer": {"id": "u", "entity": "e", "username": "u", "flags": "{}", "teams": {"edges": []}}}
            if "ServerFeatures" in query:
                return {"serverInfo": {"features": []}}
            if "query ArtifactType" in query:
                return {"project": {"artifact": None}}
            if "createRunFiles" in query:
                files = [
                    {"name": name, "uploadUrl": f"{self.address}/file/{given['run']}/{name}"} for name in given["files"]
                ]
                return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}
            return {}

    def _resumed(self, name: str) -> dict[str, Any] | None:
        if name not in self.runs:
            return None
        run = self.runs[name]
        lines = run["history"]
        tail = [lines[max(lines)]] if lines else []
        return {
            "id": name, "name": name, "displayName": name, "summaryMetrics": json.dumps(run["summary"]),
            "logLineCount": 0, "historyLineCount": len(lines), "eventsLineCount": 0,
            "historyTail": json.dumps(tail), "eventsTail": "[]", "config": json.dumps(run["config"]),
            "tags": [], "notes": None, "wandbConfig": json.dumps({"t": 1}),
        }  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    service: Service

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        what = self.path
        if what.startswith("/graphql"):
            what += " " + str(json.loads(body).get("operationName"))
        self.service.requests.append(what)
        try:
            content = self.service.fault(what)
            if content is None:
                content = json.dumps(self.service.answer(self.path, body)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except OSError:
            self.close_connection = True

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            super().handle()

    do_GET = do_POST = do_PUT = do_HEAD = _any

    def log_message(self, format: str, *args: Any) -> None: ...


@contextlib.contextmanager
def serving() -> Iterator[tuple[Service, str]]:
    """The service, and its address on this machine."""
    service = Service()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"service": service}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    service.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield service, service.address
    finally:
        server.shutdown()
        server.server_close()


def hostile(seed: int) -> Callable[[str], bytes | None]:
    """Hangs up, answers late, answers nonsense, half of a document, or null, each about as often."""
    draw = random.Random(seed)

    def fault(what: str) -> bytes | None:
        kind = draw.randrange(6)
        if kind == 0:
            raise ConnectionResetError("on purpose")
        if kind == 1:
            time.sleep(draw.uniform(1, 40))
        return {2: b"<html>", 3: b'{"data": {"mod', 4: b'{"data": null}'}.get(kind)

    return fault


if __name__ == "__main__":
    with serving() as (started, where):
        if len(sys.argv) > 1:
            started.fault = hostile(int(sys.argv[1]))
        print(where, flush=True)
        sys.stdin.read()
