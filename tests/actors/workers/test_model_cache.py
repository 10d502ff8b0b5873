"""The message about a model that is no longer the one that a study began with."""

from __future__ import annotations

import numpy as np
import pytest

from actors.scheduling.messages import PredictJob, Truth
from actors.workers.model_cache import ModelRequest, check_digest
from actors.workers.service_worker import ServiceWorker
from actors.workers.worker_config import ServiceAccess, WorkerConfig
from study.errors import StudyError
from study.images.labels import label_set
from study.models import Model
from study.reproducibility.numerics import Numerics

OLD, NEW = "a" * 64, "b" * 64


def test_a_digest_that_is_the_same_or_not_known_yet_is_accepted():
    check_digest("m", NEW, NEW)
    check_digest("m", NEW, None)


@pytest.mark.parametrize(
    ("kind", "what", "restore"),
    [
        ("network", "the weights, the preprocessing or the defences of model", "the old files"),
        (
            "code",
            "the code (its file or the modules beside it), the weights, the preprocessing or the defences of model",
            "the old files",
        ),
        (
            "service",
            "the address, the request or the defences of service",
            "the old spec and the old files of the defences",
        ),
    ],
)
def test_what_may_have_changed_depends_on_the_kind_of_model(kind, what, restore):
    with pytest.raises(StudyError) as caught:
        check_digest("m", NEW, OLD, kind=kind)
    assert str(caught.value) == (
        f"{what} 'm' have changed since this study began\n"
        "  accepted: digest aaaaaaaaaaaa…; found bbbbbbbbbbbb…\n"
        f"  to do:    restore {restore}, or launch into a new folder with --output"
    )


def test_a_service_that_has_changed_is_asked_nothing(tmp_path):
    model = Model.model_validate({"remote": {"url": "http://127.0.0.1:9/", "top": 3}})
    access = ServiceAccess(None, tmp_path / "answers", None, tmp_path / "verdicts")
    config = WorkerConfig({"s": model}, label_set("cifar10"), 3, 0, Numerics(), {"s": access})
    job = PredictJob(("s",), 2, ("x",), truth=Truth((0,)))
    with pytest.raises(StudyError, match="the address, the request or the defences of service 's' have changed since"):
        ServiceWorker(config, "cpu").predict(ModelRequest({"s": OLD}), job, np.zeros((1, 3, 8, 8), np.uint8))
