"""Verifies a run: parts are intact, rows have possible values, and every planned row exists exactly once."""

from __future__ import annotations

from collections.abc import Sequence
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
from study.results import integrity, kept_images, scanning, versions
from study.results.row_checks import PART, contradicting, impossible
from study.results.schema import SCHEMA_VERSION
from study.spec.schema import Spec
from study.storage import journal, part_file
from study.storage.no_run import no_run
from study.storage.part_file import PartName
from study.storage.paths import StoragePath
from study.storage.run_folder import RunFolder

Severity = Literal["damaged", "incomplete", "note"]

_MOVE = integrity.advice("results")
_RESTORE = "restore it from a backup, or launch into a new folder with --output"
_RESTORE_IMAGES = "restore images.parquet from a backup"
_ROW = [name for name in ("unit", "target", "steps", "variant", "budget", "image") if name in versions.PRESENT.names()]
"""The columns whose values together identify a row."""


@dataclass(frozen=True)
class Issue:
    """A problem of a run: what is wrong, where, and what to do. A problem of the kind `note` is harmless."""

    kind: Severity
    what: str
    where: str
    todo: str


@dataclass
class VerificationReport:
    """The counts and the problems of a run.

    Attributes:
        run: The address of the run.
        parts, rows, units: Numbers of parts (Parquet files), of rows, and of units with rows. A unit is one attack run
            on one shard of images. Rows, units and pairs are None if they were not counted, because the journal of a
            compaction is damaged.
        pairs: Number of (unit, target) pairs with rows. If there is a plan, only pairs of the plan count.
        expected: Number of (unit, target) pairs of the plan; None if there is no plan.
        probes: Number of probe units (one geometry probe on one shard) with rows.
        probes_expected: Number of probe units of the plan; None if the spec has no probes.
        findings: The problems.
    """

    run: str
    parts: int = 0
    rows: int | None = 0
    units: int | None = 0
    pairs: int | None = 0
    expected: int | None = None
    probes: int = 0
    probes_expected: int | None = None
    findings: list[Issue] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether no part, row or file is damaged or missing."""
        return all(issue.kind == "note" for issue in self.findings)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"whole": self.whole}

    def add(self, kind: Severity, what: str, where: object, todo: str) -> None:
        self.findings.append(Issue(kind, what, str(where), todo))


def verify(run: str | StoragePath) -> VerificationReport:
    """Read a whole run and return the report on its problems.

    If the journal of a compaction is damaged, rows and kept images are not checked. Raises StudyError if `run` is not a
    run folder, or if the storage does not answer.
    """
    folder = RunFolder(run)
    report = VerificationReport(str(folder.path))
    if not (folder.results.is_dir() or folder.spec.is_file()):
        raise no_run(folder.path, f"{folder.path} is not a run folder")
    counting = _journal(folder, report)
    if not counting:
        report.rows = report.units = report.pairs = None
    if not folder.begun and not part_file.list_parts(folder.results):
        report.add("incomplete", "the launch of this run has not selected images yet", folder.path,
                   "launch the study again")  # fmt: skip
        return report
    readable = _parts(folder, scanning.parts(folder.path) if counting else part_file.list_parts(folder.results), report)
    _arithmetic(folder, report)
    changed = _digests(folder, report)
    spec, plan, selection = _plan(folder, report)
    if not counting:
        return report
    frames = [scanning.scan_parts(found, version, PART) for version, found in sorted(readable.items())]
    rows = pl.concat(frames) if frames else None
    _kept(folder, rows, report)
    if rows is not None:
        _count(rows, report)
        for problem, count, row in impossible(rows, None if spec is None else len(spec.labels)):
            report.add("damaged", f"{_rows(count)} {problem}", row, _MOVE)
        if selection is not None:
            todo = (
                _RESTORE_IMAGES
                if folder.images in changed
                else f"if images.parquet was changed, {_RESTORE_IMAGES}; else {_MOVE}"
            )
            for problem, count, row in contradicting(rows, selection):
                report.add("damaged", f"{_rows(count)} {problem}", row, todo)
    if plan is not None:
        _cells(plan, rows, report)
        _without_images(folder, plan, rows, report)
    return report


def _rows(count: int) -> str:
    return "1 row has" if count == 1 else f"{count} rows have"


def _journal(folder: RunFolder, report: VerificationReport) -> bool:
    """Return whether it is known which parts count. It is not if the journal of a compaction is damaged.

    Reports such damage. Adds a note to the report if a compaction is not finished.
    """
    try:
        unfinished = journal.read(folder.path) is not None
    except StudyError as error:
        report.add("damaged", error.what, folder.journal, error.todo or _RESTORE)
        return False
    if unfinished:
        report.add("note", "a compaction is not finished; each row still counts once", folder.journal, "nothing: if it "
                   "was interrupted, the next `study launch` or `study compact` finishes or undoes it")  # fmt: skip
    return True


def _parts(folder: RunFolder, found: Sequence[StoragePath], report: VerificationReport) -> dict[int, list[StoragePath]]:
    """Return those of the parts `found` in `results/` that are readable, by version.

    Reports parts that cannot be read, parts without a digest, and files in `results/` and `kept/` that are not parts.
    """
    readable: dict[int, list[StoragePath]] = {}
    for place in (folder.results, folder.kept):
        add_strays(place, f"{place.name}/", report)
    unsigned = 0
    for path in found:
        name = part_file.parse_name(path.name)
        assert name is not None, "every part has a valid name"
        report.parts += 1
        unsigned += name.digest is None
        if _readable(path, name, report):
            readable.setdefault(name.version, []).append(path)
    if unsigned:
        parts = "1 part has no digest" if unsigned == 1 else f"{unsigned} parts have no digests"
        report.add("note", f"{parts} (written by an old version of study), so damage may not be noticed",
                   folder.results, "run `study compact`, which writes parts with digests")  # fmt: skip
    return readable


def add_strays(folder: StoragePath, name: str, report: VerificationReport) -> None:
    """Add a note to the report if a folder of parts has other files. `name` is the folder's name in messages."""
    strays = part_file.list_strays(folder)
    if strays:
        todo = f"move files that you do not need out of {name}: polars reads all Parquet files in a folder"
        report.add("note", part_file.describe_strays(strays), folder, todo)


def _readable(path: StoragePath, name: PartName, report: VerificationReport) -> bool:
    """Return whether the rows of a part can be read, and report damage of the part.

    A part whose content does not match its digest is damaged, but its rows can be read.
    """
    table = read_part(path, SCHEMA_VERSION, report, _MOVE)
    if table is None:
        return False
    expected = versions.columns(name.version).names()
    missing = [] if name.version == 1 else [column for column in expected if column not in table.column_names]
    unknown = [column for column in table.column_names if column not in expected]
    for column in missing or unknown:
        problem = f"the part {'lacks' if missing else 'has'} the column {column!r}, unlike version {name.version}"
        report.add("damaged", problem, path, _MOVE)
        return False
    inside = (table.schema.metadata or {}).get(versions.METADATA, b"1").decode()
    if inside != str(name.version):
        report.add(
            "damaged", f"the part has version {name.version} in its name, but {inside} in its metadata", path, _MOVE
        )
    return True


def read_part(path: StoragePath, newest: int, report: VerificationReport, todo: str) -> pa.Table | None:
    """Return the content of a part; None if it cannot be read, or if its version is later than `newest`.

    Reports both cases. Also reports a part whose content does not match the digest in its name. `todo` says in the
    report what to do.
    """
    name = part_file.parse_name(path.name)
    if name is not None and name.version > newest:
        report.add("damaged", f"the part has version {name.version}, but this study reads versions up to {newest}",
                   path, "verify the run with the version of study that wrote the part")  # fmt: skip
        return None
    try:
        content = path.read_bytes()
        table = pq.read_table(pa.BufferReader(content))
    except (OSError, pa.ArrowException) as error:
        report.add("damaged", f"the part cannot be read: {first_line(error)}", path, todo)
        return None
    if name is not None and name.digest is not None and part_file.digest(content) != name.digest:
        report.add("damaged", part_file.CHANGED, path, todo)
    return table


def _kept(folder: RunFolder, rows: pl.LazyFrame | None, report: VerificationReport) -> None:
    """Report damaged parts of kept images, and the parts of rows that may come from these images."""
    for damage in integrity.damaged(folder, "kept"):
        units = kept_images.units_in(damage.path)
        suspects: list[str] = [] if rows is None or not units else (
            rows.filter(pl.col("unit").is_in(units)).select(pl.col(PART).unique().sort()).collect()[PART].to_list()
        )  # fmt: skip
        if not suspects:
            todo = "move the part out of kept/ and launch the study again: units that need its images run again"
            report.add("damaged", damage.problem, damage.path, todo)
            continue
        names = ", ".join(path.rpartition("/")[2] for path in suspects)
        units_of = "1 unit" if len(units) == 1 else f"{len(units)} units"
        report.add(
            "damaged",
            f"{damage.problem}; the rows of its {units_of} may come from damaged images",
            damage.path,
            f"move the part out of kept/, move the parts with rows of its units out of results/ ({names}), and launch "
            "the study again: these units run again",
        )


def _without_images(folder: RunFolder, plan: Plan, rows: pl.LazyFrame | None, report: VerificationReport) -> None:
    """Report the units that have all their rows, but no kept images, if the run keeps images."""
    if rows is None or not plan.spec.run.keep_images:
        return
    finished: dict[str, set[str]] = {}
    for unit, target in rows.select("unit", "target").unique().collect().iter_rows():
        finished.setdefault(unit, set()).add(target)
    kept = {unit for part in part_file.list_parts(folder.kept) for unit in kept_images.units_in(part)}
    lacking = [unit.id for unit in plan.units(finished, kept=kept) if not unit.targets]
    if lacking:
        units = "1 unit has all its rows" if len(lacking) == 1 else f"{len(lacking)} units have all their rows"
        report.add("incomplete", f"{units}, but no kept images", f"such as unit {lacking[0]}",
                   "launch the study again to make these images")  # fmt: skip


def _plan(folder: RunFolder, report: VerificationReport) -> tuple[Spec | None, Plan | None, Selection | None]:
    """Return the spec, the plan and the selected images. Each is None if it cannot be read; the reason is reported."""
    missing = [path for path in (folder.spec, folder.models, folder.images) if not path.is_file()]
    for path in missing:
        problem = f"{path.name} is missing, so the completeness of the run cannot be checked"
        report.add("damaged", problem, path, _RESTORE)
    try:
        spec = None if folder.spec in missing else resume.spec_of(folder)
    except StudyError as error:
        report.add("damaged", first_line(error), folder.spec, _RESTORE)
        return None, None, None
    if missing or spec is None:
        return spec, None, None
    selection = None
    try:
        selection = resume.as_it_lies(folder)
        digests = {name: model["digest"] for name, model in selection.models.items()}
        return spec, Plan(spec, digests, selection.shards), selection
    except (StudyError, KeyError, TypeError) as error:
        report.add("damaged", f"the plan cannot be made: {first_line(error)}", folder.path, _RESTORE)
        return spec, None, selection


def _arithmetic(folder: RunFolder, report: VerificationReport) -> None:
    """Add a note to the report if rows come from several kinds of processor or several library versions."""
    try:
        found = float_environment.recorded(folder)
    except StudyError as error:
        report.add("damaged", error.what, folder.arithmetic, error.todo or _RESTORE)
        return
    if len(found) > 1:
        report.add(
            "note",
            f"rows come from several kinds of processor or library versions: {'; '.join(map(str, found))}",
            folder.arithmetic,
            "nothing: rates agree within their intervals, and each part records its versions and hardware",
        )


def _digests(folder: RunFolder, report: VerificationReport) -> list[StoragePath]:
    """Check three files of the run folder, spec, models and images. Report and return those with another digest."""
    if not folder.digests.is_file():
        problem = "images.parquet and models.json have no digests: the run is old, or digests.json was removed"
        report.add("note", problem, folder.digests, "nothing: everything else is checked")
        return []
    try:
        changed = resume.not_as_written(folder)
    except StudyError as error:
        report.add("damaged", first_line(error), folder.digests, _RESTORE)
        return []
    for path in changed:
        report.add("damaged", f"{path.name} does not match its recorded digest", path, _RESTORE)
    return changed


def _count(rows: pl.LazyFrame, report: VerificationReport) -> None:
    """Write the numbers of rows, units and (unit, target) pairs into the report. Report rows that exist twice."""
    counted = rows.select(pl.len(), pl.col("unit").n_unique(), pairs=pl.struct("unit", "target").n_unique()).collect()
    report.rows, report.units, report.pairs = counted.row(0)
    holders = rows.group_by(_ROW).agg(pl.len(), pl.col(PART).unique().sort())
    twice = holders.filter(pl.col("len") > 1).sort(_ROW).collect()
    if twice.height:
        first = twice.row(0, named=True)
        where = f"unit {first['unit']}, target {first['target']}, image {first['image']}"
        exist = "1 row exists" if twice.height == 1 else f"{twice.height} rows exist"
        report.add("damaged", f"{exist} more than once", f"{' and '.join(first[PART])}: {where}",
                   "move these parts out of results/, all but one of several, and launch the study again")  # fmt: skip


def _cells(plan: Plan, rows: pl.LazyFrame | None, report: VerificationReport) -> None:
    """Count the (unit, target) pairs of the plan, and report those that lack rows.

    Adds a note to the report if rows are not in the plan.
    """
    left: dict[tuple[str, str], int] = {}
    if rows is not None:
        found = rows.group_by("unit", "target").len().collect()
        left = {(unit, target): count for unit, target, count in found.iter_rows()}
    report.expected = plan.pairs
    missing: list[str] = []
    short: list[str] = []
    for craft in plan.crafts.values():
        for shard in plan.shards:
            unit = craft.unit_id(shard)
            expected = len(shard.images) * len(craft.recipe.scored_points)
            for target in craft.targets:
                count = left.pop((unit, target), 0)
                if not count:
                    missing.append(f"unit {unit}, target {target}")
                elif count < expected:
                    short.append(f"unit {unit}, target {target}: {count} of {expected} rows")
    report.pairs = plan.pairs - len(missing)
    if missing:
        report.add("incomplete", f"{len(missing)} of {plan.pairs} (unit, target) pairs have no rows",
                   f"such as {missing[0]}", "launch the study again to run the missing pairs")  # fmt: skip
    if short:
        pairs = "1 (unit, target) pair lacks" if len(short) == 1 else f"{len(short)} (unit, target) pairs lack"
        report.add("damaged", f"{pairs} some rows", short[0],
                   f"find the part with rows of this unit; {_MOVE}")  # fmt: skip
    if left:
        unit, target = min(left)
        report.add("note", f"{_rows(sum(left.values()))} a unit or target that is not in the plan of the present spec",
                   f"unit {unit}, target {target}", "nothing: an earlier spec asked for them, or an earlier version "
                   "of an attack wrote them (then a launch runs their units again)")  # fmt: skip
