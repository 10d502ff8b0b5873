"""Prints digests of what five presets make of four images on a network of random weights. Run by `values.pixels`."""

from __future__ import annotations

import json
import platform

import numpy as np
import torch

from study.attacks.loop import Engine, ImageBatch, craft
from study.attacks.presets import keys_of
from study.attacks.recipe import Attack
from study.images.decoding import digest
from study.models import Model, loading
from study.reproducibility import numerics
from tests.golden.made import bits

PRESETS = {"fgsm": {}, "mi": {"steps": 3}, "pgd": {"steps": 3}, "optimization": {"steps": 3}, "sg-fgsm": {}}

numerics.fix(1)
model = loading.load("m", Model.model_validate({"network": "timm:test_resnet", "weights": "random:2"}), fold=True)
clean = bits(4, 3, 64, 64, key="photographs", count=8).astype(np.uint8)
given = ImageBatch(clean, np.array([1, 20, 300, 999]), ["a", "b", "c", "d"])
found = {"on": f"{platform.machine()}, torch {torch.__version__.partition('+')[0]}"}
for name, changed in PRESETS.items():
    attack = Attack.model_validate(keys_of(name, changed))
    made = craft([model], attack, "untargeted", given, key=("golden", name), engine=Engine(batch=4), names=["m"])
    found[name] = digest(made.pixels)
print(json.dumps(found))
