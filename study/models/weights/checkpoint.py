"""What a file of weights holds, read without running anything that is in it."""

from __future__ import annotations

import argparse
import contextlib
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from study.errors import StudyError, first_line, names

_ACCEPTED = ".safetensors, or a state dict written by torch.save"
_SAVE = "in the code that made it, save model.state_dict() alone, and name that file"
_HEAD = 512
_MOST_HEADER = 100_000_000
"""Bytes of a safetensors header, by its own specification."""
_STARTS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "run `git lfs pull` where it came from"),
    (b"<!doctype", "a web page", "download the file itself: the page says where, or asks to log in"),
    (b"<html", "a web page", "download the file itself: the page says where, or asks to log in"),
    (b"<?xml", "an XML document, perhaps a server's refusal", "download the file again"),
    (b"\x89hdf", "an HDF5 file, as Keras writes them", "convert it to PyTorch's names and save it with safetensors"),
    (b"\x1f\x8b", "compressed with gzip", "unpack it, and name the file inside"),
)
"""How files begin, in lower case, that are named like weights and are none; what they are; what to do."""

_SCALAR: Any = np.float64(0).__reduce__()[0]
"""The function that numpy's pickled numbers name, by the module that it had in numpy 1 or has in numpy 2."""

_KINDS = "bhilqBHILQefd?"
_HARMLESS: list[Any] = [
    argparse.Namespace,
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *sorted({type(np.dtype(kind)) for kind in _KINDS}, key=str),
]
"""What training scripts store beside tensors, and what runs nothing when it is read: arguments and numpy's numbers."""

_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")


def read(path: Path) -> Any:
    """The content of a .safetensors or torch file, by what the file holds and not by what it is called.

    Raises StudyError, which names what the file is, where it holds no weights or more than weights.
    """
    head = _head(path)
    try:
        if _is_safetensors(head):
            from safetensors.torch import load_file

            return dict(load_file(path))
        # Opened here: given a path, torch.load goes by its suffix.
        with torch.serialization.safe_globals(_HARMLESS), path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _not_plain(path, error) from None
    except Exception as error:
        raise StudyError(
            f"the weights file {path} cannot be read: {first_line(error)}",
            accepted=_ACCEPTED,
            todo="fetch or save the file again",
        ) from error


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise StudyError(f"the weights file {path} cannot be read: {error.strerror}", accepted=_ACCEPTED) from None
    if not head:
        raise StudyError(f"the weights file {path} is empty", accepted=_ACCEPTED, todo="fetch or save the file again")
    start = head.lstrip().lower()
    for begins, what, todo in _STARTS:
        if start.startswith(begins):
            raise StudyError(f"the weights file {path} is {what}", accepted=_ACCEPTED, todo=todo)
    return head


def _is_safetensors(head: bytes) -> bool:
    """Eight bytes with the length of a JSON object, and the object."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _MOST_HEADER


def _not_plain(path: Path, error: pickle.UnpicklingError) -> StudyError:
    """A pickle with more than tensors: its classes by name, and no advice to run what is in it."""
    found: list[str] = []
    with contextlib.suppress(Exception):
        found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    found = sorted(found) or _GLOBAL.findall(str(error))[:1]
    ours = [one for one in found if not one.startswith(("torch.nn.", "numpy.", "argparse."))]
    if any(one.startswith("torch.nn.") for one in found):
        whole = f"a whole model, pickled with its classes ({names(ours or found, most=4)})"
    elif found:
        whole = f"not a plain state dict: it holds {names(ours or found, most=4)} beside tensors"
    else:
        whole = "not a plain state dict, and no file that torch.save wrote"
    return StudyError(f"the weights file {path} is {whole}", accepted=_ACCEPTED, todo=_SAVE)
