"""Build the classifier of a model: network, weights and preprocessing, from a zoo, files or the user's code."""

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

from study.distribution import installing
from study.errors import StudyError, first_line, names
from study.images.labels import LabelSet, label_set
from study.models import outputs, user_code, zero_shot
from study.models.classifier import Classifier, Native, Preprocessing
from study.models.reference import Model
from study.models.weights import fetch, state_dict, weight_set
from study.models.weights.packages import lite_names, package_file
from study.models.weights.random_weights import ReproducibleDraws
from study.models.zoos import ZOOS
from study.reproducibility.hashing import canonical
from study.reproducibility.numerics import Layout


def check(name: str, model: Model, *, labels: LabelSet | None = None, allow_code: bool = False) -> None:
    """Check a model without building its network or downloading weights.

    Raises StudyError if the zoo does not have the network or the weights, or can no longer download them; if the
    weights are for other labels than `labels` (None: ImageNet's); or if a file is missing. Also raises StudyError if
    the model is the user's own code and `allow_code` is false. Services and models with the key `model` have no network
    and are not checked.
    """
    if model.network is None:
        return
    labels = labels or label_set("imagenet")
    outputs.output_indices(name, model, labels)
    if model.is_zero_shot:
        zero_shot.check(name, model)
        return
    if model.zoo == "python":
        user_code.check(name, model, allowed=allow_code)
    else:
        known = _networks(name, model)
        present = ZOOS[model.zoo].renamed(model.bare_name)
        if present is not None and model.bare_name not in known:
            raise StudyError(
                f"{model.zoo} has renamed '{model.name}'",
                accepted=f"{model.zoo}:{present}",
                todo=f"write {model.zoo}:{present} as the network of model '{name}'",
            )
        if model.bare_name not in known:
            raise StudyError(
                f"{model.zoo} has no network named '{model.name}'",
                accepted=names(known, model.name),
                todo=f"correct the network of model '{name}'",
            )
    match model.weights_kind:
        case "zoo":
            _check_tag(name, model, labels)
        case "package":
            package_file(model.weights_value)
        case "file" | "set" | "random" if model.zoo != "python" and _lacks_head(model, labels):
            raise _no_head(name, model, labels)
        case "set":
            weight_set.files(model.weights_value)
        case "file" if not Path(model.weights_value).is_file():
            raise StudyError(f"the weights file {model.weights_value} does not exist", todo="correct `weights: file:…`")


def _networks(name: str, model: Model) -> Sequence[str]:
    """Return the names of the zoo's networks. Raises StudyError if a package that the zoo needs is not installed."""
    try:
        return ZOOS[model.zoo].networks()
    except ImportError as error:
        extra = model.zoo == "pretrainedmodels"
        install = installing(model.zoo) if extra else f"pip install {error.name or model.zoo}"
        raise StudyError(
            f"the networks of {model.zoo} cannot be imported: {first_line(error)}",
            accepted=f"an environment with {model.zoo} and its dependencies",
            todo=f"{install}, or use another zoo for model '{name}'",
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
    """Build the classifier of `model` on `device`: network, weights and preprocessing.

    `name` is the model's name in the spec. `labels` are the labels of the logits (None: ImageNet's). `channels` is the
    number of channels of the images. `fold` folds batch norms into convolutions, except if the model has several
    weights (`weights: set:…`). The user's own code runs only with `allow_code`.

    Raises StudyError if the network is unknown; if its weights are not available, do not fit, or are for other labels;
    or if the network does not accept the images or is not deterministic.
    """
    labels = labels or label_set("imagenet")
    check(name, model, labels=labels, allow_code=allow_code)
    called = f"{model.network} (model '{name}')"
    kind, value = model.weights_kind, model.weights_value
    network, identity = _built(model, labels, called, allow_code=allow_code)
    if kind in ("file", "package") and not model.is_zero_shot:
        path = Path(value) if kind == "file" else package_file(value)
        tensors = state_dict.read(path, sha256=model.sha256)
        if kind == "package":
            tensors = lite_names(tensors, network)
        origin = str(path) if kind == "file" else f"package {value}"
        state_dict.load(network, tensors, called=called, origin=origin)
        expected = preprocessing_of(model, network, called)
        state_dict.check_normaliser(tensors, expected.mean, expected.std, origin)
    several = None
    if kind == "set":
        several = weight_set.read(network, weight_set.files(value), called=called)
        identity += f" set {several.digest}"
    preprocessing = preprocessing_of(model, network, called)
    if channels > len(preprocessing.mean):
        raise StudyError(
            f"{called} takes images with {len(preprocessing.mean)} channel, but the image set has {channels} channels",
            accepted="an image set with one channel, or a network for three channels",
            todo="set the image set's channels, or choose another network",
        )
    indices = outputs.output_indices(name, model, labels)
    if indices is not None:
        identity += f" outputs {list(indices)}"
    classifier = Classifier(
        network, preprocessing, labels=len(labels), identity=identity, outputs=indices, weight_set=several
    )
    outputs.check_logits(classifier, model, labels, called)
    if model.zoo == "python" or any(module.training for module in network.modules()):
        outputs.check_determinism(classifier, called)
    classifier.arrange(fold=fold, layout=layout, device=device)
    return classifier


def native(model: Model, classifier: Classifier) -> Native:
    """Return how the model's own zoo prepares images, at the size and with the interpolation of `classifier`."""
    size, interpolation = classifier.preprocessing.size, classifier.preprocessing.interpolation
    if model.zoo == "python" or model.is_zero_shot:
        return Native(size, size, interpolation, "crop")
    if model.weights_kind == "package":
        return Native(math.floor(size / 0.875), size, interpolation, "crop")
    resize, mode = ZOOS[model.zoo].native(model.name, model.tag, classifier.network, size)
    return Native(resize, size, interpolation, mode)


def _check_tag(name: str, model: Model, labels: LabelSet) -> None:
    zoo, tag = ZOOS[model.zoo], model.tag
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
            f"{model.network} names no weights",
            accepted=names(f"{model.network}{mark}{tag}" for tag in tags),
            todo=f"name the weights of model '{name}': the default changes between versions of a zoo",
        )
    zoo.refuse(model.name, tag)
    if tag not in tags:
        raise StudyError(
            f"{model.network} has no weights named '{tag}'",
            accepted=names(tags, tag),
            todo=f"correct the weights of model '{name}'",
        )
    width = zoo.outputs(model.name, tag)
    if width == 0 or ("clip" in f"{model.name}.{tag}" and width not in outputs.widths(model, labels)):
        raise _no_head(name, model, labels, width)
    asked = model.arguments.get("num_classes", width)
    if asked != width:
        raise StudyError(
            f"the weights '{tag}' of {model.network} are for {width} classes, but num_classes is {asked}",
            accepted="no num_classes, or weights: file:<path> that were trained for that number of classes",
            todo=f"remove num_classes from model '{name}': with it, the last layer would be random",
        )
    if width not in outputs.widths(model, labels):
        error = outputs.wrong_width(f"{model.network} (model '{name}')", model, labels, width)
        error.accepted = _fitting(model, labels) or error.accepted
        raise error


def _lacks_head(model: Model, labels: LabelSet) -> bool:
    """Return whether the network ends in features: it has no head for classes, and the spec does not ask for a head."""
    standard = labels.name == "imagenet" and model.classes is None
    return standard and "num_classes" not in model.arguments and ZOOS[model.zoo].headless(model.name)


def _no_head(name: str, model: Model, labels: LabelSet, width: int = 0) -> StudyError:
    """Return the error for a network without a classification head, such as CLIP or DINO: its outputs are features."""
    ends = f"its {width} outputs are" if width else "it ends in"
    accepted, fitting = outputs.widths(model, labels)[0], _fitting(model, labels)
    return StudyError(
        f"{model.network} (model '{name}') has no classification head: {ends} features, not classes",
        accepted=fitting or f"weights of a network that classifies into {accepted:,} labels",
        todo="choose weights that were trained to classify; or, if you have a head of your own, write `arguments: "
        f"{{num_classes: {accepted}}}` and `weights: file:<path>`, where the file has the tensors of network and head",
    )


def _fitting(model: Model, labels: LabelSet) -> str | None:
    """Return the names of other weights of the same network that classify into `labels`, as one text for a message.

    None if the zoo has no such weights.
    """
    zoo, accepted = ZOOS[model.zoo], outputs.widths(model, labels)
    mark = "." if model.zoo == "timm" else "/"
    found = [tag for tag in zoo.tags(model.name) if zoo.outputs(model.name, tag) in accepted]
    return names(f"{model.zoo}:{model.bare_name}{mark}{tag}" for tag in found) if found else None


def _built(model: Model, labels: LabelSet, called: str, *, allow_code: bool) -> tuple[nn.Module, str]:
    """Return the network, and the text that identifies it in the digest.

    Weights from files or a package are not loaded yet, except in a zero-shot classifier.
    """
    kind, value = model.weights_kind, model.weights_value
    given = canonical(model.arguments)
    try:
        with _quiet(), torch.random.fork_rng(devices=[]), contextlib.ExitStack() as stack:
            torch.manual_seed(int(value) if kind == "random" else 0)
            if kind == "random":
                stack.enter_context(ReproducibleDraws(int(value)))
            if model.zoo == "python":
                return user_code.build(model, allowed=allow_code)
            if model.is_zero_shot:
                return zero_shot.build(model, labels, called)
            zoo = ZOOS[model.zoo]
            if kind == "zoo":
                fetch.ensure_downloaded(model)
                return zoo.build(model.name, model.tag, model.arguments), f"{model.network} {given}"
            standard = labels.name == "imagenet" and model.classes is None
            defaults = zoo.defaults(model.name, None if standard else len(model.classes or labels))
            return zoo.build(model.name, None, defaults | model.arguments), f"{model.network} {defaults | given}"
    except StudyError:
        raise
    except Exception as error:
        raise _unavailable(called, kind, error) from error


def preprocessing_of(model: Model, network: nn.Module, called: str) -> Preprocessing:
    """Return the preprocessing of `network`: the values of the spec, and the zoo's values where the spec has none.

    Raises StudyError if mean and std differ in length, or if their length is neither 1 nor 3. `called` names the
    network in messages.
    """
    if model.zoo == "python":
        recorded = user_code.preprocessing(model)
    elif isinstance(network, zero_shot.ZeroShot):
        recorded = network.recorded
    else:
        recorded = ZOOS[model.zoo].preprocessing(model.name, model.tag, network)
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
            accepted="a connection to the zoo's host, a filled cache, or a weights file",
            todo="fetch the weights on a machine that can reach the host, or give `weights: file:<path>`",
        )
    return StudyError(
        f"{called} cannot be built: {type(error).__name__}: {first_line(error)}",
        todo="check the `arguments` and the weights of this model",
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the progress bars, retries and deprecation warnings of the zoos."""
    loggers = [logging.getLogger(name) for name in ("timm", "huggingface_hub", "httpx", "httpx2")]
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
