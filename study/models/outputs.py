"""Match the outputs of a network with the labels of a study, and check the network's logits."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from study.errors import StudyError, first_line, names
from study.images.labels import LabelSet
from study.models.classifier import Classifier
from study.models.reference import Model

_ROUNDING = 1e-3
"""The accepted change of a logit by rounding, as a share of the range of all logits over labels and images."""


def output_indices(name: str, model: Model, labels: LabelSet) -> tuple[int, ...] | None:
    """Return, for each label, the index of the network's output; None if the spec has no `classes` for the outputs.

    Raises StudyError if a label is missing in `classes`, or occurs twice in `classes`.
    """
    if model.classes is None:
        return None
    place = {label: index for index, label in enumerate(model.classes)}
    missing = [label for label in labels.labels if label not in place]
    if missing:
        some = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        raise StudyError(
            f"the classes of model '{name}' lack {len(missing)} of the {len(labels)} labels: {some}",
            accepted=f"each label once; further classes may exist. The classes are {names(model.classes, missing[0])}",
            todo=f"use the labels of the image set in the classes of model '{name}'",
        )
    counts = Counter(model.classes)
    twice = [label for label in labels.labels if counts[label] > 1]
    if twice:
        raise StudyError(
            f"the classes of model '{name}' have '{twice[0]}' more than once",
            accepted="one output for each label",
            todo="give the other output another name",
        )
    return tuple(place[label] for label in labels.labels)


def widths(model: Model, labels: LabelSet) -> tuple[int, ...]:
    """Return the accepted numbers of a network's outputs. For ImageNet, a further output for background is accepted."""
    if model.classes is not None:
        return (len(model.classes),)
    return (len(labels), len(labels) + 1) if labels.name == "imagenet" else (len(labels),)


def wrong_width(called: str, model: Model, labels: LabelSet, found: int) -> StudyError:
    """Return the error for a network with `found` outputs, which do not fit the labels."""
    if model.classes is not None:
        whose, accepted = f"the {len(model.classes)} `classes` of the spec", "one class for each output, in order"
    else:
        of = "ImageNet's" if labels.name == "imagenet" else f"the image set's ({labels.name})"
        whose = f"{of} {len(labels):,} labels"
        accepted = (
            "1000 outputs, or 1001 with the background class first"
            if labels.name == "imagenet"
            else f"{len(labels)} outputs, or `classes` that name all outputs"
        )
    return StudyError(
        f"{called} does not classify into {whose}: it has {found} outputs",
        accepted=accepted,
        todo="choose weights for these labels, or let `classes` name all outputs",
    )


def check_logits(classifier: Classifier, model: Model, labels: LabelSet, called: str) -> None:
    """Raise StudyError if the network does not return finite logits for `labels`.

    The check classifies two images that are 0 after normalisation. `called` names the network in messages.
    """
    size, channels = classifier.preprocessing.size, len(classifier.preprocessing.mean)
    try:
        with torch.no_grad():
            output = classifier.network(torch.zeros(2, channels, size, size))
    except Exception as error:
        raise StudyError(
            f"{called} cannot take {channels} x {size} x {size} pixels: {first_line(error)}",
            accepted="the size and the number of channels that the network expects",
            todo="correct `size`, or `mean` and `std` (one number for each channel)",
        ) from error
    if isinstance(output, Tensor) and output.shape[2:] == (1, 1):
        output = output.flatten(1)
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != 2:
        what = f"a tensor of shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise StudyError(
            f"{called} is not a classifier: for two images its output is {what}, not a matrix of logits",
            accepted=f"a tensor (2, {widths(model, labels)[0]})",
        )
    if output.shape[1] not in widths(model, labels):
        raise wrong_width(called, model, labels, output.shape[1])
    if not bool(output.isfinite().all()):
        raise StudyError(
            f"the logits of {called} for an image of zeros (after normalisation) are not finite",
            todo="choose other weights: these are damaged, or lack the last layer",
        )


def check_determinism(classifier: Classifier, called: str) -> None:
    """Check that an image always has the same logits: classify four images twice, then classify one of them alone.

    The state of random generators does not change. Raises StudyError if the logits of an image differ. In this case,
    the network draws random numbers, keeps a state, or mixes the images of a batch.
    """
    size, channels = classifier.preprocessing.size, len(classifier.preprocessing.mean)
    images = torch.randn(4, channels, size, size, generator=torch.Generator().manual_seed(0))
    with _restored_generators(), torch.no_grad():
        first, again, alone = (classifier.network(some).flatten(1) for some in (images, images, images[2:3]))
    training = [f"{name} ({type(one).__name__})" for name, one in classifier.network.named_modules() if one.training]
    parts = f"; in training mode: {names(training)}" if training else ""
    spread = float(first.max() - first.min())
    for answer, other, how in (
        (first, again, "gives different logits when it sees the same four images again"),
        (first[2:3], alone, "gives different logits when it sees an image without the others of its batch"),
    ):
        moved = float((answer - other).abs().max())
        if moved > _ROUNDING * spread:
            share = f"by {100 * moved / spread:.2g} % of their range" if spread else f"by {moved:.2g}"
            raise StudyError(
                f"{called} {how}: the logits change {share}{parts}",
                accepted="a network whose logits depend only on the image and the weights",
                todo="make batch norms and dropout follow .eval(), and remove random draws from forward(), "
                "or derive them from the image",
            )


@contextlib.contextmanager
def _restored_generators() -> Iterator[None]:
    """Restore the state of Python's, NumPy's and torch's global generators at the end of the context."""
    python, numpys = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpys)
