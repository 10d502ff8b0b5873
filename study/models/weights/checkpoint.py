"""Read a weights file without running code that the file may contain."""

from __future__ import annotations

import argparse
import contextlib
import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from study.errors import StudyError, first_line, names

_ACCEPTED = ".safetensors, or a state dict written by torch.save"
_SAVE = "in the code that wrote the file, save only model.state_dict(), and use that file"
_HEAD = 512
_ARCHIVE = b"PK"
_MOST_HEADER = 100_000_000
"""Maximum size of a safetensors header in bytes, by its specification."""
_STARTS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "run `git lfs pull` in its repository"),
    (b"<!doctype", "a web page", "download the file itself: the page may have a link to it, or a sign-in form"),
    (b"<html", "a web page", "download the file itself: the page may have a link to it, or a sign-in form"),
    (b"<?xml", "an XML document, perhaps an error of a server", "download the file again"),
    (
        b"\x89hdf",
        "an HDF5 file, as Keras writes it",
        "convert it to PyTorch's tensor names and save it with safetensors",
    ),
    (b"\x1f\x8b", "compressed with gzip", "decompress it, and use the file inside"),
)
"""For each kind of file that is refused: the first bytes (in lower case), a description, and advice."""

_SCALAR: Any = np.float64(0).__reduce__()[0]
"""The function that a pickle calls to create a number of numpy. Its module differs between numpy 1 and numpy 2."""

_KINDS = "bhilqBHILQefd?"
_HARMLESS: list[Any] = [
    argparse.Namespace,
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *sorted({type(np.dtype(kind)) for kind in _KINDS}, key=str),
]
"""Harmless classes and functions that a file may use, because training scripts store them together with tensors.

They belong to argparse's arguments and to numpy's numbers."""

_SAFETENSORS_DTYPES = {
    **{f"F{bits}": getattr(torch, f"float{bits}") for bits in (16, 32, 64)},
    **{f"I{bits}": getattr(torch, f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": getattr(torch, f"uint{bits}") for bits in (8, 16, 32, 64)},
    "BF16": torch.bfloat16,
    "BOOL": torch.bool,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
"""For each name of a dtype in the header of a safetensors file, the dtype of torch."""

_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")


def read(path: Path) -> Any:
    """Read a .safetensors or torch file. The content of the file decides the format, not its name.

    Raises StudyError if the file cannot be read, is of another kind, or has code besides the weights.
    """
    return _read(path, values=True)


def outline(path: Path) -> Any:
    """Return what `read` returns, but with tensors on the meta device: shapes and dtypes without values.

    This takes milliseconds, even for files of many gigabytes. A file written by torch before 1.6 is read completely.
    """
    return _read(path, values=False)


def _read(path: Path, *, values: bool) -> Any:
    head = _head(path)
    try:
        if _is_safetensors(head):
            return _safetensors(path, values=values)
        # In FakeTensorMode, tensors have no values, and torch.load skips the bytes of tensors in an archive.
        without: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
        if not values and head.startswith(_ARCHIVE):
            without = FakeTensorMode()
        # torch.load gets an open file, because with a path, the suffix would decide the format.
        with torch.serialization.safe_globals(_HARMLESS), path.open("rb") as file, without:
            found = torch.load(file, map_location="cpu", weights_only=True)
        return found if values else _on_meta(found)
    except pickle.UnpicklingError as error:
        raise _not_plain(path, error) from None
    except Exception as error:
        raise StudyError(
            f"the weights file {path} cannot be read: {first_line(error)}",
            accepted=_ACCEPTED,
            todo="fetch or save the file again",
        ) from error


def _safetensors(path: Path, *, values: bool) -> dict[str, torch.Tensor]:
    if values:
        from safetensors.torch import load_file

        return dict(load_file(path))
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        begin = file.tell()
    header.pop("__metadata__", None)
    end = begin + max((one["data_offsets"][1] for one in header.values()), default=0)
    if (size := path.stat().st_size) != end:
        raise ValueError(f"it has {size:,} bytes, but its header announces {end:,}")
    return {
        name: torch.empty(one["shape"], dtype=_SAFETENSORS_DTYPES[one["dtype"]], device="meta")
        for name, one in header.items()
    }


def _on_meta(found: Any) -> Any:
    """Return `found`, with the tensors in its nested mappings on the meta device."""
    if isinstance(found, torch.Tensor):
        return torch.empty(found.shape, dtype=found.dtype, device="meta")
    if isinstance(found, Mapping):
        return {key: _on_meta(value) for key, value in found.items()}
    return found


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
    """Return whether `head`, the first bytes of a file, is the beginning of a safetensors file.

    Such a file begins with the size of a JSON object in eight bytes, followed by the object.
    """
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _MOST_HEADER


def _not_plain(path: Path, error: pickle.UnpicklingError) -> StudyError:
    """Return the error for a pickle with more than tensors.

    The message names the other classes in the pickle, and never advises to run the pickle.
    """
    found: list[str] = []
    with contextlib.suppress(Exception):
        found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    found = sorted(found) or _GLOBAL.findall(str(error))[:1]
    ours = [one for one in found if not one.startswith(("torch.nn.", "numpy.", "argparse."))]
    if any(one.startswith("torch.nn.") for one in found):
        whole = f"a whole model, pickled with its classes ({names(ours or found, most=4)})"
    elif found:
        whole = f"not a plain state dict: it holds tensors and {names(ours or found, most=4)}"
    else:
        whole = "neither a plain state dict nor a file of torch.save"
    return StudyError(f"the weights file {path} is {whole}", accepted=_ACCEPTED, todo=_SAVE)
