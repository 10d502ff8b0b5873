"""Translates Ray's errors, with their long coloured texts, into errors of the backend interface, with one line."""

from __future__ import annotations

import re
from typing import Any

from actors.backends.interface import ActorLost, CallFailed, DeviceLost, MachineLost, MemoryLost, PixelsLost
from study.errors import StudyError

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_FRAME = re.compile(r"^(ray::|Traceback |\s|$|The actor died because)")
_NODE = re.compile(r"\(IP: ([^,)]+)")
_ADDRESS = re.compile(r"^\s*ip: (\S+)", re.MULTILINE)
_EXCEEDED = re.compile(r"Memory usage (\d+)B exceeded threshold of (\d+)B \([\d.]+% of (\d+)B limit\)")
_ROUNDED = re.compile(r"was ([\d.]+)GB used / ([\d.]+)GB limit")
_WORKER = re.compile(r"actual memory used=([\d.]+)GB")
_USER = re.compile(r"^\d+\t([\d.]+)\t(\S+)", re.MULTILINE)
_DETAIL = re.compile(r"Worker exit detail: (.*?)(?:\. Some common causes|\. If the process|$)", re.MULTILINE)
_EXITED = "The process ended without a message: it was killed, or compiled code crashed"
_NODE_DIED = "its node has died"
_GIB = 2.0**30


def translate(error: Exception, errors: Any) -> Exception:
    """Return the error of the backend interface that corresponds to Ray's `error`.

    `errors`: the module `ray.exceptions`.
    """
    text = _COLOURS.sub("", str(error))
    inner = getattr(error, "cause", None)
    if isinstance(inner, StudyError | CallFailed | DeviceLost):
        return inner
    if isinstance(inner, errors.ObjectLostError) or isinstance(error, errors.ObjectLostError):
        return PixelsLost("the pixels that the call needed are lost: the machine that held them is gone")
    if getattr(error, "actor_init_failed", False):
        return CallFailed(cause(text), text)
    kinds = {errors.OutOfMemoryError: MemoryLost, errors.NodeDiedError: MachineLost}
    deaths = (errors.RayActorError, errors.WorkerCrashedError)
    kind = next((ours for theirs, ours in kinds.items() if isinstance(error, theirs)), None)
    if kind is None and isinstance(error, deaths):
        # Only the text says whether the machine died or only the actor.
        kind = MachineLost if _NODE_DIED in text else ActorLost
    if kind is None:
        return CallFailed(cause(text), text)
    return kind(out_of_memory(text) if kind is MemoryLost else death(text, machine=kind is MachineLost))


def cause(text: str) -> str:
    """Return the exception at the end of Ray's text, in one line.

    This is the last line that begins with the name of an exception. Without such a line, it is the last line that is
    not indented.
    """
    lines = [line for line in text.splitlines() if not _FRAME.match(line)]
    raised = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Interrupt|Exit)(: |$)", line)]
    found = (raised or lines or [text.strip() or "Ray gives no reason"])[-1]
    return re.sub(r"^ray\.exceptions\.\w+: (System error: )?", "", found).strip()


def death(text: str, *, machine: bool) -> str:
    """Return one line about the death of an actor, or, if `machine` is True, of its whole machine."""
    address, detail = _ADDRESS.search(text), _DETAIL.search(text)
    where = f" on {address[1]}" if address else ""
    if machine:
        return f"the machine of an actor has died{f' ({address[1]})' if address else ''}"
    reason = detail[1].strip() if detail else ""
    if "connection error code 2" in reason:
        reason = _EXITED
    return f"an actor died{where}" + (f": {reason.rstrip('.')}" if reason else "")


def out_of_memory(text: str) -> str:
    """Return one line that says that memory ran out.

    If Ray's text has them, it names the machine, the limit, and the memory that Ray's workers and other processes used.
    """
    node, exact, rounded = _NODE.search(text), _EXCEEDED.search(text), _ROUNDED.search(text)
    where = node[1] if node else "a machine"
    if exact:
        used, limit, total = (int(one) / _GIB for one in exact.groups())
    elif rounded:
        used, total = float(rounded[1]), float(rounded[2])
        limit = total
    else:
        return f"memory ran out on {where}, and Ray killed workers there"
    ours = min(used, sum(float(one) for one in _WORKER.findall(text)))
    line = (
        f"memory ran out on {where}, and Ray killed workers there: {used:.1f} of {total:.1f} GiB were in use and the "
        f"limit is {limit:.1f} GiB; Ray's workers used {ours:.1f} GiB, other processes {used - ours:.1f} GiB"
    )
    others = [(float(size), name) for size, name in _USER.findall(text) if not name.startswith("ray::")]
    if others:
        size, name = max(others)
        line += f" (most of it: {name.rpartition('/')[2]}, {size:.1f} GiB)"
    return line
