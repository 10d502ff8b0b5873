"""What W&B's own files hold: the runs of a study that were logged on this machine, and how far each of them goes.

W&B keeps a run in a transaction log: LevelDB's log format (7 bytes of header, blocks of 32 KiB, records in pieces with
a CRC-32 of type and content each) around protocol buffers. The end of a log whose writer was killed may be missing.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_HEADER = 7
_BLOCK = 32 * 1024
_PIECE = struct.Struct("<IHB")
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
UPLOADED = "uploaded"
"""Beside a log: a file that says that the server has all of it, or gets it from the log of a later launch."""


@dataclass(frozen=True)
class Logged:
    """One folder of W&B's, of one launch."""

    folder: Path
    log: Path
    last_step: int
    """The last that its history has; -1 where it has none."""

    @property
    def online(self) -> bool:
        return not self.folder.name.startswith("offline-")

    @property
    def uploaded(self) -> bool:
        """Whether the server has it: W&B marks what `wandb sync` has uploaded."""
        return (self.folder / UPLOADED).exists() or self.log.with_name(f"{self.log.name}.synced").exists()


def logged(folder: Path, run: str) -> list[Logged]:
    """The readable logs of W&B run `run` below `folder`, oldest first."""
    found = []
    for log in sorted(folder.glob(f"wandb/*run-*/run-{run}.wandb"), key=lambda path: path.parent.name.split("run-")[1]):
        if not log.parent.is_symlink():
            begun, last = reach(log)
            if begun:
                found.append(Logged(log.parent, log, last))
    return found


def to_sync(runs: Sequence[Logged]) -> list[Path]:
    """The folders with history that the server does not have yet."""
    return [one.folder for one in runs if one.last_step >= 0 and not one.uploaded]


def reach(log: Path) -> tuple[bool, int]:
    """Whether a log has a run, and the last step of its history, or -1."""
    begun, last = False, -1
    for record in records(log):
        begun = begun or record.HasField("run")
        if record.HasField("history"):
            last = max(last, record.history.step.num)
    return begun, last


def records(log: Path) -> Iterator[Any]:
    """The records of a log (`wandb_internal_pb2.Record`) up to its end, or to where it is damaged."""
    from wandb.proto import wandb_internal_pb2

    for content in _contents(log.read_bytes()):
        record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
        record.ParseFromString(content)
        yield record


def _contents(data: bytes) -> Iterator[bytes]:
    at, whole = _HEADER, b""
    while at + _PIECE.size <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _PIECE.size:
            at += left
            continue
        checksum, length, kind = _PIECE.unpack_from(data, at)
        piece = data[at + _PIECE.size : at + _PIECE.size + length]
        if len(piece) < length or zlib.crc32(piece, zlib.crc32(bytes([kind]))) != checksum:
            return
        at += _PIECE.size + length
        whole = piece if kind in {_WHOLE, _FIRST} else whole + piece
        if kind in {_WHOLE, _LAST}:
            yield whole
