"""Whether a run is whole: every part as it was written, every row possible, every cell of the plan there, once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from study.errors import StudyError, first_line
from study.images.selection import Selection
from study.planning import resume
from study.planning.plan import Plan
from study.reproducibility import float_environment
from study.results import integrity, kept_images, versions
from study.results import parts as store
from study.results.impossible_values import PART, impossible
from study.results.schema import SCHEMA_VERSION
from study.results.selection_check import contradicting
from study.spec.schema import Spec
from study.storage.places import Place
from study.storage.run_folder import RunFolder

Kind = Literal["damaged", "incomplete", "note"]

_AGAIN = "launch the study again: what is missing is run again"
_MOVE = "move it out of results/ and launch the study again: its units are run again"
_BEGIN = "launch the study: it begins with selecting images"
_CRAFTED = "then launch the study again: these units are crafted again"
_COPY = "bring it back from a copy, or launch into a new folder with --output"
_AS_BEFORE = "bring images.parquet back from a copy, as it says above"
_IF_CHANGED = "bring images.parquet back from a copy where it was changed"
_PLAIN = "study does not read it, but polars alone scans all of a folder"
_ROW = [one for one in ("unit", "target", "steps", "variant", "budget", "image") if one in versions.PRESENT.names()]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or for a `note` only worth knowing."""

    kind: Kind
    what: str
    where: str
    todo: str


@dataclass
class Report:
    """What was read, and what was found. `expected` counts the plan's (unit, target) pairs: None without a plan.

    `probes` are the units of probes that have rows, of `probes_expected`: None where the spec has no probes.
    """

    run: str
    parts: int = 0
    rows: int = 0
    units: int = 0
    pairs: int = 0
    expected: int | None = None
    probes: int = 0
    probes_expected: int | None = None
    findings: list[Finding] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Nothing is damaged and nothing is missing."""
        return all(finding.kind == "note" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"whole": self.whole}

    def add(self, kind: Kind, what: str, where: object, todo: str) -> None:
        self.findings.append(Finding(kind, what, str(where), todo))


def verify(run: str | Place) -> Report:
    """Read all of a run. Raises StudyError where there is none, or its store cannot be asked."""
    folder = RunFolder(run)
    report = Report(str(folder.path))
    if not (folder.results.is_dir() or folder.spec.is_file()):
        raise StudyError(f"{folder.path} is not a run folder", todo="name the folder of a launched study")
    if folder.journal.is_file():
        report.add("note", "a compaction was cut short; no row is lost or counted twice", folder.journal,
                   "the next `study launch` or `study compact` mends it")  # fmt: skip
    if not folder.begun and not integrity.parts(folder.results):
        report.add("incomplete", "no images are selected yet: its launch has not come that far", folder.path, _BEGIN)
        return report
    readable = _parts(folder, report)
    _arithmetic(folder, report)
    changed = _digests(folder, report)
    spec, plan, selection = _plan(folder, report)
    rows = _rows(readable)
    _kept(folder, rows, report)
    if rows is not None:
        _count(rows, report)
        for what, count, row in impossible(rows, None if spec is None else len(spec.labels)):
            report.add("damaged", f"{count} rows have {what}", row, _MOVE)
        if selection is not None:
            todo = _AS_BEFORE if folder.images in changed else f"{_IF_CHANGED}; else {_MOVE}"
            for what, count, row in contradicting(rows, selection):
                report.add("damaged", f"{count} rows have {what}", row, todo)
    if plan is not None:
        _against(plan, rows, report)
    return report


def _parts(folder: RunFolder, report: Report) -> dict[int, list[Place]]:
    """By version, the parts that can be read; everything else in `results/` is reported."""
    readable: dict[int, list[Place]] = {}
    for place in (folder.results, folder.kept):
        others = integrity.strays(place)
        if others:
            report.add(
                "note", integrity.stray_line(others), place, f"move out of {place.name}/ what you do not need: {_PLAIN}"
            )
    unsigned = 0
    for path in store.parts(folder.path):
        said = versions.read_name(path.name)
        assert said is not None, "parts have names of ours"
        report.parts += 1
        unsigned += said.digest is None
        if said.version > SCHEMA_VERSION:
            what = f"it is of version {said.version}, and versions up to {SCHEMA_VERSION} are known"
            report.add("damaged", what, path, "verify it with the version of study that wrote it")
            continue
        if _whole(path, said, report):
            readable.setdefault(said.version, []).append(path)
    if unsigned:
        report.add("note", f"{unsigned} parts are of a version without digests: a changed bit may not be found",
                   folder.results, "`study compact` writes them again with digests")  # fmt: skip
    return readable


def _whole(path: Place, said: versions.Name, report: Report) -> bool:
    """Whether the rows of a part can be read; what is wrong with the file is reported."""
    read = table(path, said.digest, report, _MOVE)
    if read is None:
        return False
    wanted = versions.columns(said.version).names()
    lacking = [] if said.version == 1 else [name for name in wanted if name not in read.column_names]
    foreign = [name for name in read.column_names if name not in wanted]
    if lacking or foreign:
        odd = f"its column {foreign[0]} is none of version {said.version}" if foreign else ""
        what = f"it lacks the column {lacking[0]}" if lacking else odd
        report.add("damaged", what, path, _MOVE)
        return False
    inside = (read.schema.metadata or {}).get(versions.METADATA, b"1").decode()
    if inside != str(said.version):
        report.add("damaged", f"its name says version {said.version} and its metadata {inside}", path, _MOVE)
    return True


def table(path: Place, digest: str | None, report: Report, todo: str) -> pa.Table | None:
    """What a part holds; None where it cannot be read. That, and content that has another `digest`, is reported."""
    try:
        content = path.read_bytes()
        changed = digest is not None and versions.digest(content) != digest
        read = pq.read_table(pa.BufferReader(content))
    except (OSError, pa.ArrowException) as error:
        report.add("damaged", f"it cannot be read: {first_line(error)}", path, todo)
        return None
    if changed:
        report.add("damaged", "its content is not what was written: the digest in its name is another", path, todo)
    return read


def _kept(folder: RunFolder, rows: pl.LazyFrame | None, report: Report) -> None:
    """Kept images that are not as they were written, and the parts of rows that may have been made from them."""
    for one in integrity.damaged(folder, "kept"):
        units = kept_images.suspects(one.path)
        suspect = [] if rows is None or not units else (
            rows.filter(pl.col("unit").is_in(units)).select(pl.col(PART).unique().sort()).collect()[PART].to_list()
        )  # fmt: skip
        if not suspect:
            todo = "move it out of kept/ and launch the study again: what needs its images crafts them again"
            report.add("damaged", one.what, one.path, todo)
            continue
        names = ", ".join(path.rpartition("/")[2] for path in suspect)
        what = f"{one.what}; rows of its {len(units)} units may have been made from such images"
        todo = f"move it out of kept/, and out of results/ the parts with rows of its units: {names}; {_CRAFTED}"
        report.add("damaged", what, one.path, todo)


def _plan(folder: RunFolder, report: Report) -> tuple[Spec | None, Plan | None, Selection | None]:
    """The plan that the run carries out, as far as it can still be made, and what was selected."""
    missing = [path for path in (folder.spec, folder.models, folder.images) if not path.is_file()]
    for path in missing:
        report.add("damaged", f"{path.name} is missing: nobody can say whether the run is complete", path, _COPY)
    try:
        spec = None if folder.spec in missing else resume.spec_of(folder)
    except StudyError as error:
        report.add("damaged", first_line(error), folder.spec, _COPY)
        return None, None, None
    if missing or spec is None:
        return spec, None, None
    selected = None
    try:
        selected = resume.as_it_lies(folder)
        digests = {name: model["digest"] for name, model in selected.models.items()}
        return spec, Plan(spec, digests, selected.shards), selected
    except (StudyError, KeyError, TypeError) as error:
        report.add("damaged", f"the plan cannot be made: {first_line(error)}", folder.path, _COPY)
        return spec, None, selected


def _arithmetic(folder: RunFolder, report: Report) -> None:
    """Rows that were rounded in several ways are worth knowing."""
    try:
        several = float_environment.recorded(folder)
    except StudyError as error:
        report.add("damaged", error.what, folder.arithmetic, error.todo or _COPY)
        return
    if len(several) > 1:
        report.add("note", f"rows come from several kinds of processor or release: {'; '.join(map(str, several))}",
                   folder.arithmetic, "nothing: rates agree within their intervals, and parts record it")  # fmt: skip


def _digests(folder: RunFolder, report: Report) -> list[Place]:
    """Which of spec, models and images are not as they were written; that is reported."""
    if not folder.digests.is_file():
        report.add("note", "images.parquet and models.json have no digests: the run began before there were any, or "
                   "digests.json was removed", folder.digests, "nothing: what can be checked is checked")  # fmt: skip
        return []
    try:
        changed = resume.not_as_written(folder)
    except StudyError as error:
        report.add("damaged", first_line(error), folder.digests, _COPY)
        return []
    for path in changed:
        report.add("damaged", f"{path.name} is not as it was written", path, _COPY)
    return changed


def _rows(readable: Mapping[int, list[Place]]) -> pl.LazyFrame | None:
    frames = [store.scan_parts(found, version, PART) for version, found in sorted(readable.items())]
    return pl.concat(frames) if frames else None


def _count(rows: pl.LazyFrame, report: Report) -> None:
    counted = rows.select(pl.len(), pl.col("unit").n_unique(), pairs=pl.struct("unit", "target").n_unique()).collect()
    report.rows, report.units, report.pairs = counted.row(0)
    holders = rows.group_by(_ROW).agg(pl.len(), pl.col(PART).unique().sort())
    twice = holders.filter(pl.col("len") > 1).sort(_ROW).collect()
    if twice.height:
        first = twice.row(0, named=True)
        where = f"unit {first['unit']}, target {first['target']}, image {first['image']}"
        report.add("damaged", f"{twice.height} rows are there more than once", f"{' and '.join(first[PART])}: {where}",
                   "move one of the parts that hold the same rows out of results/")  # fmt: skip


def _against(plan: Plan, rows: pl.LazyFrame | None, report: Report) -> None:
    """Missing cells, and rows that belong to none."""
    there: dict[tuple[str, str], int] = {}
    if rows is not None:
        found = rows.group_by("unit", "target").len().collect()
        there = {(unit, target): count for unit, target, count in found.iter_rows()}
    report.expected = plan.pairs
    missing: list[str] = []
    short: list[str] = []
    for craft in plan.crafts.values():
        for shard in plan.shards:
            unit = craft.unit_id(shard)
            wanted = len(shard.images) * len(craft.recipe.points)
            for target in craft.targets:
                count = there.pop((unit, target), 0)
                if not count:
                    missing.append(f"unit {unit}, target {target}")
                elif count < wanted:
                    short.append(f"unit {unit}, target {target}: {count} of {wanted} rows")
    if missing:
        what = f"{len(missing)} of {plan.pairs} (unit, target) pairs have no rows"
        report.add("incomplete", what, f"such as {missing[0]}", _AGAIN)
    if short:
        report.add("damaged", f"{len(short)} (unit, target) pairs lack some of their rows", short[0],
                   "find the part that holds the rest of the unit; " + _MOVE)  # fmt: skip
    if there:
        unit, target = min(there)
        report.add("note", f"{sum(there.values())} rows belong to no cell of the spec as it stands",
                   f"unit {unit}, target {target}", "nothing: an earlier spec asked for them")  # fmt: skip
