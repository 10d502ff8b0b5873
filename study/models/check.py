"""Check the models of a spec without loading weights or calling a service."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from study.defences.stages import check_files
from study.errors import StudyError
from study.images.labels import LabelSet
from study.models import loading
from study.models.memory import build_meta
from study.models.reference import Model
from study.models.services.credentials import credential_of
from study.models.weights import state_dict, weight_set
from study.models.weights.packages import lite_names, package_file


def check_models(models: Mapping[str, Model], labels: LabelSet, where: Callable[..., str], *, allow_code: bool) -> None:
    """Check all `models`, given by name. `where("models", name)` returns a model's place in the spec, for messages.

    Raises StudyError for the first model that has an unknown network or unknown weights, a missing file, or a file
    whose tensors do not fit the network. Also raises StudyError for a service without its required credential, and for
    a model from the user's own code if `allow_code` is false.
    """
    for name, model in models.items():
        try:
            if model.transform is not None:
                check_files(model.transform)
            if model.remote is None:
                loading.check(name, model, labels=labels, allow_code=allow_code)
                _check_outline(name, model, labels)
            else:
                credential_of(model.remote)
                if model.remote.judging is not None:
                    credential_of(model.remote.judging)
        except StudyError as error:
            raise error.located(where("models", name)) from None


def _check_outline(name: str, model: Model, labels: LabelSet) -> None:
    """Raise StudyError if names, shapes or types of the tensors in a model's files do not fit the model's network.

    The network is built on the meta device. The user's own code is not checked, because it must not run before the
    model is loaded. A network that cannot be built on the meta device is not checked either; its loading finds the same
    errors.
    """
    kind, value = model.weights_kind, model.weights_value
    if model.network is None or model.zoo == "python" or model.is_zero_shot or kind not in ("file", "package", "set"):
        return
    try:
        network = build_meta(model, labels=labels)
    except StudyError:
        return
    for path in weight_set.files(value) if kind == "set" else [Path(value) if kind == "file" else package_file(value)]:
        state = state_dict.outline(path)
        if kind == "package":
            state = lite_names(state, network)
        try:
            state_dict.fitted(network, state, called=f"{model.network} (model '{name}')", origin=str(path))
        except StudyError:
            # If the file does not have the SHA-256 that the spec requires, `verify` raises an error that says so.
            state_dict.verify(path, model.sha256)
            raise
