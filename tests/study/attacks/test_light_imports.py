"""Attacks and models run where Ray, polars and the packages of tables, pages and services are not installed."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import ROOT

ABSENT = (
    *("ray", "polars", "pyarrow", "rich", "typer", "httpx", "tenacity", "jinja2", "matplotlib", "wandb", "obstore"),
    *("foolbox", "torchattacks", "torchattack", "pandas", "pretrainedmodels"),
)

CODE = f"""
import importlib, pkgutil, sys

for name in {ABSENT!r}:
    sys.modules[name] = None
import numpy as np
import study.attacks, study.models
from study.attacks import Attack
from study.attacks.loop import Engine, ImageBatch, craft
from study.attacks.presets import keys_of, known
from study.models import Model, loading
from study.models.predict import predict

for name in known():
    Attack.model_validate(keys_of(name, {{}})).assembly
model = loading.load("m", Model.model_validate({{"network": "timm:test_resnet", "weights": "random:0", "size": 32}}))
clean = np.arange(2 * 3 * 32 * 32, dtype=np.uint8).reshape(2, 3, 32, 32)
given = ImageBatch(clean, np.array([1, 2]), ["a", "b"])
attack = Attack.model_validate(keys_of("mi+di", {{"steps": 2}}))
made = craft([model], attack, "untargeted", given, key=("k",), engine=Engine(batch=2))
print(made.linf.tolist(), predict(model, made.pixels, batch=2).top5.shape)
services = ("study.models.services.client", "study.models.services.request")
for package in (study.attacks, study.models):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if module.name not in services:
            importlib.import_module(module.name)
"""


def test_attacks_and_models_run_without_ray_polars_and_the_like():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split("\n")[0] == "[16.0, 16.0] (2, 5)"
