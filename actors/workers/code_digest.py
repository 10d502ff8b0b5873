"""Which code a process runs: workers prove, wherever they are, that it is the driver's."""

from __future__ import annotations

import functools
import hashlib
import pickle
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import study
from study.errors import StudyError

_SHOWN = 12


@dataclass(frozen=True)
class Code:
    """The code of a process.

    Attributes:
        machine: Its host's name.
        folder: Where the packages `study` and `actors` lie there.
        digest: SHA-256 over the names and contents of their modules.
    """

    machine: str
    folder: str
    digest: str


@functools.cache
def running() -> Code:
    """The code that this process runs, as it lies on the disk when this is first asked. Takes some milliseconds."""
    folder = Path(study.__file__).resolve().parent.parent
    return Code(socket.gethostname(), str(folder), digest_of(folder))


def digest_of(folder: Path) -> str:
    """SHA-256 over the names and contents of the modules of `study` and `actors` that lie in `folder`."""
    made = hashlib.sha256()
    for package in ("actors", "study"):
        for path in sorted((folder / package).rglob("*.py")):
            content = path.read_bytes()
            made.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode())
            made.update(content)
    return made.hexdigest()


def greeting(answer: Any) -> dict[str, Any]:
    """What an actor says when it is up: its answer to `hello`, packed, and its code.

    Nothing but a dictionary of text and bytes: a driver with other code must be able to read it.
    """
    return {"answer": pickle.dumps(answer, protocol=5), **asdict(running())}


def is_greeting(said: object) -> bool:
    """Whether an actor says that it is up; one whose code does not prove itself says a text, or nothing."""
    return said is None or isinstance(said, str | dict)


def answer_of(said: Any) -> Any:
    """The answer to `hello` in an actor's greeting. Raises StudyError where it runs other code than this process."""
    if not isinstance(said, dict):
        raise _other("a worker", "another version of this project, which does not say which")
    code = Code(said["machine"], said["folder"], said["digest"])
    if code.digest != running().digest:
        raise _other(f"a worker on {code.machine}", f"{code.folder} ({code.digest[:_SHOWN]}…)")
    return pickle.loads(said["answer"])


def _other(who: str, what: str) -> StudyError:
    ours = running()
    return StudyError(
        f"{who} runs other code than the driver: {what}",
        accepted=f"what the driver runs on {ours.machine}: {ours.folder} ({ours.digest[:_SHOWN]}…)",
        todo="install the same version of this project on every machine, or ship it with `ray job submit "
        "--working-dir`; where a file was edited while the study ran, launch again",
    )
