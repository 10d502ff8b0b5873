"""Every way to get a model behind one interface: a reference in, a classifier out."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from study.errors import StudyError, first_line, names
from study.images.labels import LabelSet, label_set
from study.models import outputs, user_code
from study.models.classifier import Classifier, Native, Preprocessing
from study.models.reference import Model
from study.models.weights import fetch
from study.models.weights import state_dict as stored
from study.models.weights.random_weights import Drawn
from study.models.zoos import ZOOS
from study.reproducibility.hashing import canonical
from study.reproducibility.numerics import Layout


def check(name: str, model: Model, *, labels: LabelSet | None = None, allow_code: bool = False) -> None:
    """Refuse, without building or downloading anything, what is known not to work.

    A network or weights that the zoo does not have or cannot fetch any more, weights for other labels than `labels`
    (None: ImageNet's), a missing file, and code of the user's own unless `allow_code`. Models without a network of
    their own pass.
    """
    if model.network is None:
        return
    labels = labels or label_set("imagenet")
    outputs.picked(name, model, labels)
    if model.zoo == "python":
        user_code.check(name, model, allowed=allow_code)
    else:
        known = _networks(name, model)
        present = ZOOS[model.zoo].renamed(_bare(model))
        if present is not None and _bare(model) not in known:
            raise StudyError(
                f"{model.zoo} has renamed '{model.name}'",
                accepted=f"{model.zoo}:{present}",
                todo=f"write {model.zoo}:{present} as the network of model '{name}'",
            )
        if _bare(model) not in known:
            raise StudyError(
                f"{model.zoo} has no network named '{model.name}'",
                accepted=names(known, model.name),
                todo=f"correct the network of model '{name}'",
            )
    kind, value = _weights(model)
    if kind == "zoo":
        _check_tag(name, model, labels)
    elif kind == "package":
        stored.package_file(value)
    elif kind == "file" and not Path(value).is_file():
        raise StudyError(f"the weights file {value} does not exist", todo="correct `weights: file:…`")


def _networks(name: str, model: Model) -> Sequence[str]:
    """The zoo's networks. Raises StudyError where a package that the zoo needs is not installed."""
    try:
        return ZOOS[model.zoo].networks()
    except ImportError as error:
        raise StudyError(
            f"the networks of {model.zoo} cannot be had here: {first_line(error)}",
            accepted=f"an environment with {model.zoo} and all that it imports",
            todo=f"pip install {error.name or model.zoo}, or take model '{name}' from another zoo",
        ) from None


def load(
    name: str,
    model: Model,
    *,
    labels: LabelSet | None = None,
    channels: int = 3,
    device: str = "cpu",
    fold: bool = False,
    layout: Layout = "channels-last",
    allow_code: bool = False,
) -> Classifier:
    """Build the network of `model`, load its weights and put its preprocessing in front, on `device`.

    `labels` are those that the classifier answers in (None: ImageNet's), `channels` those of the images that it will
    see; `fold` folds its batch norms into its convolutions. Code of the user's own runs only with `allow_code`.
    Raises StudyError where the network is unknown, or its weights cannot be had, do not fit, or are for other labels.
    """
    labels = labels or label_set("imagenet")
    check(name, model, labels=labels, allow_code=allow_code)
    called = f"{model.network} (model '{name}')"
    kind, value = _weights(model)
    network, identity = _built(model, labels, called, allow_code=allow_code)
    if kind in ("file", "package"):
        path = Path(value) if kind == "file" else stored.package_file(value)
        state = stored.read(path, sha256=model.sha256)
        if kind == "package":
            state = stored.lite_names(state, network)
        stored.load(network, state, called=called, origin=str(path) if kind == "file" else f"package {value}")
    preprocessing = preprocessing_of(model, network, called)
    if channels > len(preprocessing.mean):
        raise StudyError(
            f"{called} takes images of {len(preprocessing.mean)} channel, and these have {channels}",
            accepted="an image set with as many channels, or a network for three",
            todo="set the image set's channels, or choose another network",
        )
    picked = outputs.picked(name, model, labels)
    if picked is not None:
        identity += f" outputs {list(picked)}"
    classifier = Classifier(network, preprocessing, labels=len(labels), identity=identity, outputs=picked)
    outputs.check(classifier, model, labels, called)
    if model.zoo == "python" or any(module.training for module in network.modules()):
        outputs.must_be_steady(classifier, called)
    classifier.arrange(fold=fold, layout=layout, device=device)
    return classifier


def native(model: Model, classifier: Classifier) -> Native:
    """How the model's own zoo prepares images for it, at the size and with the interpolation that it has here."""
    size, interpolation = classifier.preprocessing.size, classifier.preprocessing.interpolation
    if model.zoo == "python":
        return Native(size, size, interpolation, "crop")
    kind, _ = _weights(model)
    if kind == "package":
        return Native(math.floor(size / 0.875), size, interpolation, "crop")
    resize, mode = ZOOS[model.zoo].native(model.name, _tag(model), classifier.network, size)
    return Native(resize, size, interpolation, mode)


def _weights(model: Model) -> tuple[str, str]:
    kind, _, value = (model.weights or "zoo:").partition(":")
    return kind, value


def _bare(model: Model) -> str:
    return model.name.partition(".")[0]


def _tag(model: Model) -> str | None:
    """Which of the zoo's weights; None where they come from elsewhere, or nothing names them."""
    kind, value = _weights(model)
    return (value or model.name.partition(".")[2] or None) if kind == "zoo" else None


def _check_tag(name: str, model: Model, labels: LabelSet) -> None:
    zoo, tag = ZOOS[model.zoo], _tag(model)
    tags = zoo.tags(model.name)
    if not tags:
        raise StudyError(
            f"{model.network} has no pretrained weights in its zoo",
            accepted="weights: file:<path>, weights: random:<seed>",
            todo=f"give the weights of model '{name}'",
        )
    if tag is None:
        mark = "." if model.zoo == "timm" else "/"
        raise StudyError(
            f"{model.network} does not say which weights",
            accepted=names(f"{model.network}{mark}{tag}" for tag in tags),
            todo=f"name the weights of model '{name}': a zoo's default changes between its versions",
        )
    zoo.refuse(model.name, tag)
    if tag not in tags:
        raise StudyError(
            f"{model.network} has no weights named '{tag}'",
            accepted=names(tags, tag),
            todo=f"correct the weights of model '{name}'",
        )
    width = zoo.outputs(model.name, tag)
    asked = model.arguments.get("num_classes", width)
    if asked != width:
        raise StudyError(
            f"the weights '{tag}' of {model.network} are for {width} classes, and num_classes is {asked}",
            accepted="no num_classes, or weights: file:<path> that were trained for so many",
            todo=f"take num_classes out of model '{name}': the last layer would be drawn at random",
        )
    if width not in outputs.widths(model, labels):
        raise outputs.other_labels(f"{model.network} (model '{name}')", model, labels, width)


def _built(model: Model, labels: LabelSet, called: str, *, allow_code: bool) -> tuple[nn.Module, str]:
    """The network before weights of a file, and what it is called in the digest."""
    kind, value = _weights(model)
    given = canonical(model.arguments)
    try:
        with _quiet(), torch.random.fork_rng(devices=[]), contextlib.ExitStack() as stack:
            torch.manual_seed(int(value) if kind == "random" else 0)
            if kind == "random":
                stack.enter_context(Drawn(int(value)))
            if model.zoo == "python":
                return user_code.build(model, allowed=allow_code)
            zoo = ZOOS[model.zoo]
            if kind == "zoo":
                fetch.bring(model)
                return zoo.build(model.name, _tag(model), model.arguments), f"{model.network} {given}"
            usual = labels.name == "imagenet" and model.classes is None
            usually = zoo.defaults(model.name, None if usual else len(model.classes or labels))
            return zoo.build(model.name, None, usually | model.arguments), f"{model.network} {usually | given}"
    except StudyError:
        raise
    except Exception as error:
        raise _unavailable(called, kind, error) from error


def preprocessing_of(model: Model, network: nn.Module, called: str) -> Preprocessing:
    """What stands in front of `network`: its zoo's own record, with what the reference says laid over it.

    Raises StudyError, about what is `called` so, where that does not go together.
    """
    if model.zoo == "python":
        recorded = user_code.preprocessing(model)
    else:
        recorded = ZOOS[model.zoo].preprocessing(model.name, _tag(model), network)
    given: dict[str, Any] = {key: getattr(model, key) for key in ("size", "interpolation", "mean", "std", "channels")}
    given["scale"] = None if model.range is None else 255.0 / model.range
    found = replace(recorded, **{key: setting for key, setting in given.items() if setting is not None})
    if len(found.mean) != len(found.std) or len(found.mean) not in (1, 3):
        raise StudyError(
            f"{called} has {len(found.mean)} numbers in mean and {len(found.std)} in std",
            accepted="3 in each, or 1 for a network of grey images",
            todo="give mean and std together",
        )
    return found


def _unavailable(called: str, kind: str, error: Exception) -> StudyError:
    if kind == "zoo" and isinstance(error, OSError):
        return StudyError(
            f"the weights of {called} are not on this machine and cannot be downloaded: {first_line(error)}",
            accepted="a network connection to the zoo's host, its cache filled beforehand, or a weights file",
            todo="run once where the host can be reached, or give `weights: file:<path>`",
        )
    return StudyError(
        f"{called} cannot be built: {type(error).__name__}: {first_line(error)}",
        todo="check its `arguments` and weights",
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the zoos' progress bars, retries and deprecation notes off the study's terminal."""
    loggers = [logging.getLogger(name) for name in ("timm", "huggingface_hub", "httpx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
