"""Which of a network's outputs stands for which label, and whether they can."""

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
"""How far logits may move by rounding, as a share of their spread over labels and images."""


def picked(name: str, model: Model, labels: LabelSet) -> tuple[int, ...] | None:
    """Which output stands for each label; None where `classes` does not name the outputs.

    Raises StudyError where a label is not among the classes, or twice.
    """
    if model.classes is None:
        return None
    place = {label: index for index, label in enumerate(model.classes)}
    missing = [label for label in labels.labels if label not in place]
    if missing:
        some = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        raise StudyError(
            f"the classes of model '{name}' lack {len(missing)} of the {len(labels)} labels: {some}",
            accepted=f"each label once, and others beside them; these are {names(model.classes, missing[0])}",
            todo=f"name the outputs of model '{name}' as the image set names its labels",
        )
    often = Counter(model.classes)
    twice = [label for label in labels.labels if often[label] > 1]
    if twice:
        raise StudyError(
            f"the classes of model '{name}' have '{twice[0]}' more than once",
            accepted="one output for each label",
            todo="give the other output another name",
        )
    return tuple(place[label] for label in labels.labels)


def widths(model: Model, labels: LabelSet) -> tuple[int, ...]:
    """How many outputs a network may have."""
    if model.classes is not None:
        return (len(model.classes),)
    return (len(labels), len(labels) + 1) if labels.name == "imagenet" else (len(labels),)


def other_labels(called: str, model: Model, labels: LabelSet, found: int) -> StudyError:
    """The error for a network of `found` outputs."""
    if model.classes is not None:
        whose, accepted = f"the {len(model.classes)} classes that it names", "a class for each output, in their order"
    else:
        of = "ImageNet's" if labels.name == "imagenet" else f"the set's ({labels.name})"
        whose = f"{of} {len(labels):,} labels"
        accepted = (
            "1000 classes, or 1001 with the background class first"
            if labels.name == "imagenet"
            else f"{len(labels)} outputs, or `classes` that name them all"
        )
    return StudyError(
        f"{called} does not classify into {whose}: its output is {found} wide",
        accepted=accepted,
        todo="choose weights that were trained for these labels",
    )


def check(classifier: Classifier, model: Model, labels: LabelSet, called: str) -> None:
    """Show the network two images that are all mean. Raises StudyError where its answer is not logits for `labels`."""
    size, channels = classifier.preprocessing.size, len(classifier.preprocessing.mean)
    try:
        with torch.no_grad():
            output = classifier.network(torch.zeros(2, channels, size, size))
    except Exception as error:
        raise StudyError(
            f"{called} cannot take {channels} x {size} x {size} pixels: {first_line(error)}",
            accepted="the size and the number of channels that the network was made for",
            todo="correct `size`, or `mean` and `std` (a number for each channel)",
        ) from error
    if isinstance(output, Tensor) and output.shape[2:] == (1, 1):
        output = output.flatten(1)
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != 2:
        what = f"a tensor of shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise StudyError(
            f"{called} does not classify: for two images its output is {what}, not a matrix of logits",
            accepted=f"a tensor (2, {widths(model, labels)[0]})",
        )
    if output.shape[1] not in widths(model, labels):
        raise other_labels(called, model, labels, output.shape[1])
    if not bool(output.isfinite().all()):
        raise StudyError(
            f"{called} gives logits that are not finite for images that are all mean",
            todo="choose other weights: these are damaged, or have no last layer",
        )


def must_be_steady(classifier: Classifier, called: str) -> None:
    """Show the network four images twice, and one of them alone. No generator's state changes.

    Raises StudyError where it answers the same image otherwise: because it draws at random, because it keeps a state,
    or because the other images of a batch decide with.
    """
    size, channels = classifier.preprocessing.size, len(classifier.preprocessing.mean)
    images = torch.randn(4, channels, size, size, generator=torch.Generator().manual_seed(0))
    with _same_draws(), torch.no_grad():
        first, again, alone = (classifier.network(some).flatten(1) for some in (images, images, images[2:3]))
    training = [f"{name} ({type(one).__name__})" for name, one in classifier.network.named_modules() if one.training]
    parts = f"; in training mode: {names(training)}" if training else ""
    spread = float(first.max() - first.min())
    for answer, other, how in (
        (first, again, "answers the same four images otherwise when it is asked again"),
        (first[2:3], alone, "answers an image otherwise alone than among three others"),
    ):
        moved = float((answer - other).abs().max())
        if moved > _ROUNDING * spread:
            share = f"by {100 * moved / spread:.2g} % of their spread" if spread else f"by {moved:.2g}"
            raise StudyError(
                f"{called} {how}: its logits move {share}{parts}",
                accepted="a network whose answer depends on the image and its weights alone",
                todo="let batch norms and dropout follow .eval(), and take draws at random out of forward(), or derive "
                "them from the image",
            )


@contextlib.contextmanager
def _same_draws() -> Iterator[None]:
    """Puts the states of the generators that a network may draw from back as they were."""
    python, numpys = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpys)
