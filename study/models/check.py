"""What can be wrong with models, as far as it shows without building a network or asking a service."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from study.errors import StudyError
from study.images.labels import LabelSet
from study.models import zoo
from study.models.reference import Model
from study.models.services.client import Secret


def check_models(models: Mapping[str, Model], labels: LabelSet, where: Callable[..., str], *, allow_code: bool) -> None:
    """Refuse models, by name, that cannot be had or are code that may not run; `where("models", name)` is a place.

    Raises StudyError at the first: an unknown network or unknown weights, a missing file, a missing credential of a
    service, and code of the user's own unless `allow_code`.
    """
    for name, model in models.items():
        try:
            if model.remote is None:
                zoo.check(name, model, labels=labels, allow_code=allow_code)
            elif model.remote.credentials is not None:
                Secret.from_environment(model.remote.credentials)
        except StudyError as error:
            raise error.located(where("models", name)) from None
