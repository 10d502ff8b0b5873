"""Verifies the rows of geometry probes.

All Parquet parts must be intact. Every unit (one probe on the images of one shard) must have rows in exactly one part.
"""

from __future__ import annotations

import json

import polars as pl

from study.errors import StudyError, first_line
from study.geometry.plan import GeometryPlan
from study.geometry.schema import SCHEMAS, VERSION
from study.geometry.spec import Kind
from study.planning import resume
from study.results import integrity
from study.results.verify import VerificationReport, add_strays, read_part
from study.storage import part_file
from study.storage.paths import StoragePath
from study.storage.run_folder import RunFolder

_MOVE = integrity.advice("geometry")
_RESTORE = "restore spec.yaml and models.json from a backup, or launch into a new folder with --output"


def check(report: VerificationReport) -> None:
    """Add the problems in the rows of probes to `report`.

    Does nothing if the run has no readable spec, no selected images or no probes.
    """
    folder = RunFolder(report.run)
    try:
        spec = resume.spec_of(folder)
        selected = resume.as_it_lies(folder) if folder.begun else None
    except (StudyError, OSError):
        # `study.results.verify` has already reported this error.
        return
    if not spec.geometry or selected is None:
        return
    units = {name: _units(folder, name, probe.probe, report) for name, probe in spec.geometry.items()}
    there = {one for found in units.values() for one in found}
    try:
        plan = GeometryPlan(spec, {name: one["digest"] for name, one in selected.models.items()}, selected.shards)
    except (StudyError, KeyError) as error:
        where, todo = (error.where, error.todo) if isinstance(error, StudyError) else (None, None)
        problem = f"probes cannot be planned: {first_line(error)}"
        report.add("damaged", problem, f"{folder.spec}: {where}" if where else folder.path, todo or _RESTORE)
        report.probes = len(there)
        return
    wanted = [unit.id for unit in plan.units()]
    report.probes, report.probes_expected = len(there & set(wanted)), len(wanted)
    missing = [one for one in wanted if one not in there]
    if missing:
        noun, have = "unit" if len(wanted) == 1 else "units", "has" if len(missing) == 1 else "have"
        what = f"{len(missing)} of {len(wanted)} {noun} of probes {have} no rows"
        report.add("incomplete", what, f"such as {missing[0]}", "launch the study again to run the missing units")


def _units(folder: RunFolder, name: str, kind: Kind, report: VerificationReport) -> set[str]:
    """Return the ids of a probe's units that have rows. Add unreadable parts and units in two parts to `report`."""
    place = folder.geometry(name)
    add_strays(place, "geometry/", report)
    holders: dict[str, StoragePath] = {}
    for path in part_file.list_parts(place):
        found = _read(path, kind, report)
        for unit in [] if found is None else found:
            if unit in holders:
                both = f"{holders[unit]} and {path}: unit {unit}"
                report.add("damaged", "two parts have the same unit of a probe", both, "move one part out of geometry/")
            holders.setdefault(unit, path)
    return set(holders)


def _read(path: StoragePath, kind: Kind, report: VerificationReport) -> list[str] | None:
    """Return the ids of the units in a part; None if the part cannot be read or has other columns.

    Problems of the part are added to `report`.
    """
    rows = read_part(path, VERSION, report, _MOVE)
    if rows is None:
        return None
    if rows.column_names != SCHEMAS[kind].names:
        report.add("damaged", f"the file's columns are not those of a {json.dumps(kind)} probe", path, _MOVE)
        return None
    units: list[str] = pl.DataFrame(rows.select(["unit"])).get_column("unit").unique().sort().to_list()
    return units
