"""Makes the errors for a path that should be a run folder or a spec, but is not. Each error says what the path is."""

from __future__ import annotations

import re
from pathlib import Path

from study.distribution import shipped
from study.errors import StudyError, names
from study.storage.paths import StoragePath

RUNS = Path("runs")
"""The folder in which launches create their run folders by default."""

_SUFFIXES = (".yaml", ".yml")
_SPEC, _IMAGES, _STATUS = "spec.yaml", "images.parquet", "status.json"
_STUDY = re.compile(r"^study:\s*[\"']?([\w.-]+)", re.M)
_TODO = "name the folder of a launched study"


def no_run(path: StoragePath, what: str) -> StudyError:
    """Return the error for a command that needs a run folder and was given `path`.

    `what`: a sentence that says why `path` is not a run folder. The error has another sentence if a more precise reason
    is found.
    """
    if not isinstance(path, Path):
        return StudyError(what, todo=_TODO)
    if path.suffix in _SUFFIXES and not path.exists():
        what = f"{path} does not exist; this command needs a run folder"
    if (path / _STATUS).is_file() and not (path / _IMAGES).is_file():
        return StudyError(
            f"{what}; its launch has not selected images yet",
            todo=f"see `study status {path}`, and wait; if the launch has ended, launch the study again",
        )
    if inside := runs_in(path):
        return StudyError(
            f"{what.partition(':')[0]}, but holds run folders",
            accepted=names(map(str, inside)),
            todo="name one of these run folders",
        )
    if is_run(RUNS / path):
        return StudyError(what, accepted=str(RUNS / path), todo=f"write {RUNS / path}")
    named = shipped("specs") / f"{path}.yaml"
    if not path.exists() and not path.is_absolute() and named.is_file():
        return StudyError(f"{path} is a spec of the project; this command needs a run folder", accepted=_known(),
                          todo=f"launch it first: `study launch {path}` makes {_run_of(named)}")  # fmt: skip
    return StudyError(what, accepted=_known(), todo=_TODO)


def not_a_folder(path: Path) -> StudyError:
    """Return the error for `path`, a file that was given instead of a run folder. The file may be a spec."""
    if path.suffix not in _SUFFIXES:
        return StudyError(f"{path} is a file; this command needs a run folder", accepted=_known(), todo=_TODO)
    run = _run_of(path)
    todo = f"write {run}" if is_run(run) else f"launch it first: `study launch {path}` makes {run}"
    return StudyError(
        f"{path} is a spec; this command needs a run folder", accepted=f"the run of this spec: {run}", todo=todo
    )


def not_a_spec(path: Path) -> StudyError:
    """Return the error for `path`, a folder that was given instead of a spec. The folder may be a run folder."""
    specs = sorted(one for suffix in _SUFFIXES for one in path.glob(f"*{suffix}"))
    if is_run(path):
        return StudyError(
            f"{path} is a run folder; this command needs a spec",
            where=str(path),
            accepted="the YAML file that was launched",
            todo=f"name that file, or {path / _SPEC}: the launch's resolved spec, with presets written out",
        )
    listed = names(map(str, specs)) if specs else None
    return StudyError(f"{path} is a folder; this command needs a spec", where=str(path), accepted=listed,
                      todo="name a YAML file; `study init` writes a first spec")  # fmt: skip


def _run_of(spec: Path) -> Path:
    """Return the run folder that a launch of the file `spec` creates by default."""
    try:
        found = _STUDY.search(spec.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        found = None
    return RUNS / (found[1] if found else spec.stem)


def runs_in(folder: Path) -> list[Path]:
    """Return the run folders directly inside a folder, sorted by name."""
    try:
        return sorted(one for one in folder.iterdir() if is_run(one))
    except OSError:
        return []


def is_run(folder: Path) -> bool:
    """Return whether a folder is the run folder of a study that has selected its images."""
    return (folder / _SPEC).is_file() and (folder / _IMAGES).is_file()


def _known() -> str | None:
    found = runs_in(RUNS)
    return names(map(str, found)) if found else None
