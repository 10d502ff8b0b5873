"""Networks of torchvision, timm and pretrainedmodels behind one interface: a reference in, a classifier out."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from study.errors import StudyError, names
from study.models import weights as stored
from study.models.classifier import Classifier, Preprocessing
from study.models.reference import Model
from study.numerics import Layout

IMAGENET_LABELS = 1000


def check(name: str, model: Model) -> None:
    """Refuse, without loading anything, a network or weights tag that the zoo does not have."""
    known = _ZOOS[model.zoo].networks()
    if model.name.partition(".")[0] not in known:
        raise StudyError(
            f"{model.zoo} has no network named '{model.name}'",
            accepted=names(known, model.name),
            todo=f"correct the network of model '{name}'",
        )
    kind, _, value = (model.weights or "").partition(":")
    tags = _ZOOS[model.zoo].tags(model.name)
    if kind in ("", "zoo"):
        wanted = value or model.name.partition(".")[2]
        if wanted and wanted not in tags:
            raise StudyError(
                f"{model.network} has no weights named '{wanted}'",
                accepted=names(tags, wanted),
                todo=f"correct the weights of model '{name}'",
            )
        if tags and not wanted:
            mark = "." if model.zoo == "timm" else "/"
            raise StudyError(
                f"{model.network} does not say which weights",
                accepted=names(f"{model.network}{mark}{tag}" for tag in tags),
                todo=f"name the weights of model '{name}': a zoo's default changes between its versions",
            )
        if not tags:
            raise StudyError(
                f"{model.network} has no pretrained weights in its zoo",
                accepted="weights: file:<path>, weights: random:<seed>",
                todo=f"give the weights of model '{name}'",
            )
    elif kind == "package":
        stored.package_file(value)
    elif kind == "file" and not Path(value).is_file():
        raise StudyError(f"the weights file {value} does not exist", todo="correct `weights: file:…`")


def load(
    name: str, model: Model, *, device: str = "cpu", fold: bool = False, layout: Layout = "channels-last"
) -> Classifier:
    """Build the network of `model`, load its weights and put its preprocessing in front, on `device`.

    `fold` folds its batch norms into its convolutions. Raises StudyError where the network is unknown, or its weights
    cannot be had or do not fit.
    """
    zoo = _ZOOS[model.zoo]
    kind, _, value = (model.weights or "zoo:").partition(":")
    called = f"{model.network} (model '{name}')"
    try:
        with _quiet():
            if kind == "zoo":
                network = zoo.build(model.name, value or None, model.arguments)
            else:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(int(value) if kind == "random" else 0)
                    network = zoo.build(model.name, ..., model.arguments)
    except StudyError:
        raise
    except Exception as error:
        raise _unavailable(called, kind, error) from error
    if kind in ("file", "package"):
        path = Path(value) if kind == "file" else stored.package_file(value)
        state = stored.read(path)
        if kind == "package":
            state = stored.lite_names(state, network)
        stored.load(network, state, called=called, origin=str(path) if kind == "file" else f"package {value}")
    given = {key: getattr(model, key) for key in ("size", "interpolation", "mean", "std")}
    preprocessing = replace(
        zoo.preprocessing(model.name, value if kind == "zoo" else None, network),
        **{key: setting for key, setting in given.items() if setting is not None},
    )
    classifier = Classifier(
        network, preprocessing, labels=IMAGENET_LABELS, identity=f"{model.network} {model.arguments}"
    )
    _check_classes(classifier, called)
    classifier.arrange(fold=fold, layout=layout, device=device)
    return classifier


def _check_classes(classifier: Classifier, called: str) -> None:
    size = classifier.preprocessing.size
    with torch.no_grad():
        output = classifier.network(torch.zeros(2, 3, size, size))
    classes = output.shape[-1] if isinstance(output, torch.Tensor) and output.ndim == 2 else None
    if classes not in (IMAGENET_LABELS, IMAGENET_LABELS + 1):
        raise StudyError(
            f"{called} does not classify into ImageNet's 1,000 labels: its output is "
            + (f"{classes} wide" if classes else "not a matrix of logits"),
            accepted="1000 classes, or 1001 with the background class first",
            todo="choose weights that were trained or fine-tuned on ILSVRC 2012",
        )


def _unavailable(called: str, kind: str, error: Exception) -> StudyError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    if kind == "zoo" and isinstance(error, OSError):
        return StudyError(
            f"the weights of {called} are not on this machine and cannot be downloaded: {reason}",
            accepted="a network connection to the zoo's host, its cache filled beforehand, or a weights file",
            todo="run once where the host can be reached, or give `weights: file:<path>`",
        )
    return StudyError(
        f"{called} cannot be built: {type(error).__name__}: {reason}",
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


class _Torchvision:
    @staticmethod
    def networks() -> list[str]:
        from torchvision import models

        return list(models.list_models(module=models))

    @staticmethod
    def tags(network: str) -> list[str]:
        from torchvision import models

        return [entry.name for entry in models.get_model_weights(network)]

    @staticmethod
    def build(network: str, tag: Any, arguments: dict[str, Any]) -> nn.Module:
        from torchvision import models

        chosen = None if tag is ... else tag
        return models.get_model(network, weights=chosen, **arguments)

    @staticmethod
    def preprocessing(network: str, tag: str | None, built: nn.Module) -> Preprocessing:
        from torchvision import models

        enum = models.get_model_weights(network)
        entry = enum[tag] if tag else next(iter(enum))
        transform = entry.transforms()
        return Preprocessing(
            size=transform.crop_size[0],
            interpolation=transform.interpolation.value,
            mean=tuple(transform.mean),
            std=tuple(transform.std),
        )


class _Timm:
    @staticmethod
    def networks() -> list[str]:
        import timm

        return list(timm.list_models())

    @staticmethod
    def tags(network: str) -> list[str]:
        import timm

        bare = network.partition(".")[0]
        return [name.partition(".")[2] for name in timm.list_pretrained(f"{bare}.*")]

    @staticmethod
    def build(network: str, tag: Any, arguments: dict[str, Any]) -> nn.Module:
        import timm

        full = f"{network}.{tag}" if tag and tag is not ... else network
        return timm.create_model(full, pretrained=tag is not ..., **arguments)

    @staticmethod
    def preprocessing(network: str, tag: str | None, built: nn.Module) -> Preprocessing:
        config: dict[str, Any] = built.pretrained_cfg  # type: ignore[assignment]
        return Preprocessing(
            size=config["input_size"][-1],
            interpolation=config["interpolation"],
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
        )


class _Pretrainedmodels:
    @staticmethod
    def _settings() -> dict[str, dict[str, dict[str, Any]]]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pretrainedmodels

        settings: dict[str, dict[str, dict[str, Any]]] = pretrainedmodels.pretrained_settings
        return settings

    @classmethod
    def networks(cls) -> list[str]:
        return list(cls._settings())

    @classmethod
    def tags(cls, network: str) -> list[str]:
        return list(cls._settings()[network])

    @classmethod
    def build(cls, network: str, tag: Any, arguments: dict[str, Any]) -> nn.Module:
        import pretrainedmodels

        setting = next(iter(cls._settings()[network].values())) if tag is ... else cls._settings()[network][tag]
        chosen = None if tag is ... else tag
        make: Callable[..., nn.Module] = getattr(pretrainedmodels, network)
        return make(**{"num_classes": setting["num_classes"], "pretrained": chosen, **arguments})

    @classmethod
    def preprocessing(cls, network: str, tag: str | None, built: nn.Module) -> Preprocessing:
        settings = cls._settings()[network]
        setting = settings[tag] if tag else next(iter(settings.values()))
        return Preprocessing(
            size=setting["input_size"][-1],
            interpolation="bilinear",
            mean=tuple(setting["mean"]),
            std=tuple(setting["std"]),
            scale=255.0 / setting["input_range"][-1],
            channels=setting["input_space"],
        )


_ZOOS: dict[str, type[_Torchvision] | type[_Timm] | type[_Pretrainedmodels]] = {
    "torchvision": _Torchvision,
    "timm": _Timm,
    "pretrainedmodels": _Pretrainedmodels,
}
