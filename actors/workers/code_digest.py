"""The digest of the code that a process runs. With it, the driver checks that every worker runs the driver's code."""

from __future__ import annotations

import functools
import hashlib
import pickle
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import study
from study.distribution import TOP_LEVEL
from study.errors import StudyError

_SHOWN = 12


@dataclass(frozen=True)
class Code:
    """The code that a process runs.

    Attributes:
        machine: The host name of the process.
        folder: The folder that holds the packages `study` and `actors`.
        digest: SHA-256 over the names and contents of the modules in these packages.
    """

    machine: str
    folder: str
    digest: str


@functools.cache
def running() -> Code:
    """Return the code of this process, as it is on disk at the first call. This takes some milliseconds."""
    folder = Path(study.__file__).resolve().parent.parent
    return Code(socket.gethostname(), str(folder), digest_of(folder))


def digest_of(folder: Path) -> str:
    """Return the SHA-256 over the names and contents of the modules of `study` and `actors` in `folder`."""
    digest = hashlib.sha256()
    for package in ("actors", "study"):
        for path in sorted((folder / package).rglob("*.py")):
            # Skip the modules of the command line. No worker runs them, and only a wheel has them inside a package.
            if path.is_relative_to(folder / "study" / TOP_LEVEL):
                continue
            content = path.read_bytes()
            digest.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()


def greeting(answer: Any) -> dict[str, Any]:
    """Return what an actor's `hello` returns: the pickled `answer` of its worker, and its code.

    The greeting is a dictionary of text and bytes only, so that a driver with other code can read it.
    """
    return {"answer": pickle.dumps(answer, protocol=5), **asdict(running())}


def answer_of(greeting: object) -> Any:
    """Take the answer out of `greeting`. Raises StudyError if the actor runs other code than this process."""
    if not isinstance(greeting, dict) or not {"answer", "machine", "folder", "digest"} <= greeting.keys():
        raise _other_code("a worker", "another version of this project, which does not report its digest")
    code = Code(greeting["machine"], greeting["folder"], greeting["digest"])
    if code.digest != running().digest:
        raise _other_code(f"a worker on {code.machine}", f"{code.folder} ({code.digest[:_SHOWN]}…)")
    return pickle.loads(greeting["answer"])


def _other_code(who: str, theirs: str) -> StudyError:
    ours = running()
    return StudyError(
        f"{who} runs other code than the driver: {theirs}",
        accepted=f"the driver's code on {ours.machine}: {ours.folder} ({ours.digest[:_SHOWN]}…)",
        todo="install the same version of this project on every machine, or ship it with `ray job submit "
        "--working-dir`; if a file was edited while the study ran, launch again",
    )
