"""The conformance test of a defence.

It mainly checks that the result of an image does not depend on the other images of the batch, or on the batch size.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from study.attacks.conformance import CheckResult
from study.defences.kinds import Defence, DefenceContext, Purifier, Vote
from study.errors import StudyError, first_line
from study.reproducibility import numerics
from study.reproducibility.rng import Streams

_IMAGES, _SIDE, _TOLERANCE = 4, 32, 1.0
"""The number of test images, their side in pixels, and the accepted difference of two results in pixel values.

Results may differ slightly, because forward passes of different batch sizes may round differently."""


def check(defence: Defence) -> Iterator[CheckResult]:
    """Yield the result of each check of a defence on four small images."""
    numerics.fix(1)
    channels = defence.channels or 3
    pixels = np.random.default_rng(0).integers(0, 256, (_IMAGES, channels, _SIDE, _SIDE)).astype(np.uint8)
    try:
        network = defence.network()
        if network is not None:
            network = network.eval().requires_grad_(False)
        run = functools.partial(_run, defence, network)
        whole = run(pixels, list("abcd"))
    except Exception as error:
        if isinstance(error, StudyError):
            raise
        yield CheckResult("the defence runs", fault=f"{type(error).__name__}: {first_line(error)}")
        return
    yield CheckResult("the defence runs")
    right = whole.shape == (*pixels.shape[:2], _SIDE, _SIDE)
    yield CheckResult("the shape stays", fault="" if right else f"the result has the shape {tuple(whole.shape)}")
    if not right:
        return
    finite = bool(whole.isfinite().all())
    yield CheckResult("values are finite", fault="" if finite else "some values are not finite")
    yield _same("the same images give the same result", run(pixels, list("abcd")), whole, 0.0)
    yield _same("the order changes nothing", run(pixels[::-1].copy(), list("dcba")).flip(0), whole, _TOLERANCE)
    alone = torch.cat([run(pixels[at : at + 1], [name]) for at, name in enumerate("abcd")])
    yield _same("the batch changes nothing", alone, whole, _TOLERANCE)


def _run(defence: Defence, network: torch.nn.Module | None, pixels: NDArray[np.uint8], ids: list[str]) -> Tensor:
    """Return the changed images; if the defence is a vote, the last version of each image."""
    context = DefenceContext(network, Streams(("check", "transform", 0), ids), defence.stream, "cpu")
    images = torch.from_numpy(pixels).float()
    with torch.inference_mode():
        if isinstance(defence, Vote):
            return defence.made(images, context, defence.versions - 1)
        assert isinstance(defence, Purifier), "a defence purifies or votes"
        return defence.purified(images, context)


def _same(what: str, found: Tensor, expected: Tensor, tolerance: float) -> CheckResult:
    moved = float((found - expected).abs().max())
    return CheckResult(what, fault="" if moved <= tolerance else f"some value differs by {moved:.3g} pixel values")
