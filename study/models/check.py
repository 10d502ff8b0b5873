"""Check the models of a spec without building a network or calling a service."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from study.errors import StudyError
from study.images.labels import LabelSet
from study.models import loading
from study.models.reference import Model
from study.models.services.credentials import credential_of


def check_models(models: Mapping[str, Model], labels: LabelSet, where: Callable[..., str], *, allow_code: bool) -> None:
    """Check all models by name. `where("models", name)` returns a model's place in the spec for messages.

    Raises StudyError for the first model with an unknown network or unknown weights, a missing file, a missing
    credential, or the user's own code without `allow_code`.
    """
    for name, model in models.items():
        try:
            if model.remote is None:
                loading.check(name, model, labels=labels, allow_code=allow_code)
            else:
                credential_of(model.remote)
        except StudyError as error:
            raise error.located(where("models", name)) from None
