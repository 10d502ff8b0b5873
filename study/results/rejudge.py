"""Judges the answers of a run's chat services again, and writes the run with the new verdicts to a new folder.

The recorded sentences are judged, so the chat services get no new requests.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from study.errors import StudyError
from study.images.labels import LabelSet
from study.images.selection import Clean, Selection
from study.models.services.credentials import credential_of
from study.models.services.judges import Judging, Verdict, judging
from study.models.services.label_names import names_of_label
from study.models.services.reply import Reply
from study.models.services.service_spec import Judge, Remote
from study.planning import resume
from study.results import integrity, versions
from study.results.scanning import collect, parts, scan_versions
from study.results.schema import SCHEMA, SCHEMA_VERSION
from study.results.writer import encode_part
from study.spec.schema import Spec
from study.storage import part_file
from study.storage.paths import StoragePath
from study.storage.run_folder import RunFolder

_BATCH = 20_000
"""Number of sentences that are judged at once."""


@dataclass(frozen=True)
class Rejudged:
    """The result of a new judging, by chat service: the number of judged answers, and how many verdicts changed."""

    answers: Mapping[str, int]
    changed: Mapping[str, int]


def rejudge(folder: RunFolder, spec: Spec, new: Path) -> Rejudged:
    """Copy the run at `folder` to the folder `new`, with its sentences judged as `spec` says.

    The old run is not changed. For each chat service of the run, the model of the same name in `spec` gives the judge
    and the `names` of labels. If the judge is itself a model, it gets requests, up to the limits in its own settings.
    Its replies are cached in the new folder.

    Raises StudyError if the run is not local, has no chat service or no selected images, or if its rows are damaged.
    Raises StudyError also if `new` exists, or if `spec` lacks a chat service of the run or describes other requests to
    the services than the run made.
    """
    old = resume.spec_of(folder)
    judges = {name: _judge_of(name, old, spec) for name, model in old.models.items() if _talks(model.remote)}
    if not judges:
        raise StudyError(
            f"the run {folder.path} has no chat service", todo="use `study judge` for runs of models with `api: chat`"
        )
    damaged = integrity.damaged(folder, "results")
    if damaged:
        raise integrity.damage_error(folder, damaged)
    selection = resume.selected(folder)
    if selection is None:
        raise StudyError(f"the run {folder.path} has not selected images yet", todo="launch the study first", status=1)
    if new.exists():
        raise StudyError(f"the folder {new} exists", accepted="a new folder", todo="name a new folder with --output")
    unfinished = new.with_name(f".{new.name}.judging")
    _copy(folder, unfinished)
    target = RunFolder(unfinished)
    target.claim()
    judged_spec = old.model_copy(update={"models": {**old.models, **_remotes(old, judges)}})
    try:
        services = {
            name: _Judges(
                remote,
                new=_reader(name, remote, judged_spec.labels, target),
                old=_reader(name, _keywords(old, name), judged_spec.labels, target),
            )
            for name, remote in judges.items()
        }
        resume.record(judged_spec, _judged_selection(selection, services), target, _candidates(folder))
        told = _rewrite(folder, target, judged_spec.labels, services)
    finally:
        target.release()
    unfinished.rename(new)
    return told


def _talks(remote: Remote | None) -> bool:
    return remote is not None and remote.api == "chat"


def _judge_of(name: str, old: Spec, spec: Spec) -> Remote:
    """Return the chat service `name` of the run's spec `old`, with the judge and the `names` that `spec` gives it.

    Raises StudyError if `spec` lacks this service, or describes other requests to it than `old` does.
    """
    there, here = old.models[name].remote, spec.models[name].remote if name in spec.models else None
    assert there is not None, "every chat service is a remote service"
    if here is None or here.api != "chat":
        raise StudyError(
            f"the run has the chat service '{name}', but the spec does not",
            accepted="the run's spec.yaml, with changes of `judge` and `names` only",
            todo=f"add the model '{name}' to the spec, with `api: chat`, as the run's spec.yaml has it",
        )
    if here.digest != there.digest:
        raise StudyError(
            f"the spec describes other requests to '{name}' than the run made: url, model, prompt or extra differ",
            todo="change only `judge` and `names`; for other requests, launch another study",
        )
    return there.model_copy(update={"judge": here.judge, "names": here.names})


def _remotes(old: Spec, judges: Mapping[str, Remote]) -> dict[str, object]:
    return {name: old.models[name].model_copy(update={"remote": remote}) for name, remote in judges.items()}


def _reader(name: str, remote: Remote, labels: LabelSet, folder: RunFolder) -> Judging:
    other = remote.judging
    secret = None if other is None else credential_of(other)
    return judging(name, remote, labels, secret=secret, cache=folder.verdicts(name))


def _keywords(spec: Spec, name: str) -> Remote:
    """Return the chat service `name` of a spec, with a judge by keywords instead of a judging model.

    The new judge has the same phrases of refusal.
    """
    remote = spec.models[name].remote
    assert remote is not None, "every chat service is a remote service"
    assert remote.judge is not None, "a chat service has a judge"
    return remote.model_copy(update={"judge": Judge(refusals=remote.judge.refusals)})


def _copy(folder: RunFolder, new: Path) -> None:
    """Copy a local run to the folder `new`, without its rows, its tracking data and its HTML report.

    Files of kept images never change, so they become hard links if the file system supports links. If `new` is left
    from a failed attempt, its cached replies of judging models are moved into the new copy, because replies may cost
    money. Raises StudyError if the run is not local.
    """
    if not isinstance(folder.path, Path):
        raise StudyError(f"{folder.path} is not a local folder", todo="copy the run to a local folder first")
    left_out = shutil.ignore_patterns("results", "tracking", "tracked.json", "tmp", "lease", "report.html")

    def copy(source: str, goal: str) -> str:
        if Path(source).parent == Path(str(folder.kept)):
            try:
                os.link(source, goal)
            except OSError:
                return str(shutil.copy2(source, goal))
            return goal
        return str(shutil.copy2(source, goal))

    asked = new.with_name(f"{new.name}-replies")
    if new.exists():
        asked.mkdir(exist_ok=True)
        for file in (new / "answers").glob("*.judge.sqlite"):
            file.replace(asked / file.name)
        shutil.rmtree(new)
    shutil.copytree(folder.path, new, copy_function=copy, ignore=left_out)
    for file in asked.glob("*.judge.sqlite"):
        file.replace(new / "answers" / file.name)
    shutil.rmtree(asked, ignore_errors=True)


def _candidates(folder: RunFolder) -> str | None:
    known = resume.predicted_candidates(folder)
    return known if isinstance(known, str) else None


def _judged_selection(selection: Selection, services: Mapping[str, _Judges]) -> Selection:
    """Return the selected images with new verdicts on the clean answers: the label names that the new judges find."""
    images = [image for shard in selection.shards for image in shard.images]
    clean: dict[str, dict[str, Clean]] = {image.image: dict(image.clean) for image in images}
    for name, judges in services.items():
        some = [image for image in images if name in image.clean]
        replies = [Reply((), (), image.clean[name].sentence or "") for image in some]
        for image, verdict in zip(some, judges.new.verdicts(replies, [(one.label,) for one in some]), strict=True):
            clean[image.image][name] = replace(image.clean[name], names=verdict.names)
    shards = [
        replace(shard, images=tuple(replace(image, clean=clean[image.image]) for image in shard.images))
        for shard in selection.shards
    ]
    return replace(selection, shards=shards)


@dataclass(frozen=True)
class _Judges:
    """Two ways to judge the answers of one chat service.

    `new` judges as the new spec says. `old` has the phrases of refusal of the run's spec, and judges by keywords.
    """

    remote: Remote
    new: Judging
    old: Judging

    def verdicts(self, rows: pl.DataFrame) -> list[Verdict]:
        """Return a new verdict on the sentence of each row.

        If the service itself marked an answer as a refusal, the answer stays a refusal. These are the answers that are
        recorded as refused although `old` does not find a phrase of refusal in them.
        """
        marked = [
            refused and not self.old.is_refusal(sentence)
            for sentence, refused in rows.select("sentence", "refused").iter_rows()
        ]
        replies = [Reply((), (), one, refused=mark) for one, mark in zip(rows["sentence"], marked, strict=True)]
        pairs = rows.select("label", "target_label").iter_rows()
        return self.new.verdicts(replies, [(label,) if wanted is None else (label, wanted) for label, wanted in pairs])


def _rewrite(folder: RunFolder, new: RunFolder, labels: LabelSet, services: Mapping[str, _Judges]) -> Rejudged:
    """Write each part of the run at `folder` to the run `new`, with new verdicts, and return the counts.

    `services`: the judges of each chat service, by name. The rows of all other targets are copied unchanged.
    """
    answers, changed = dict.fromkeys(services, 0), dict.fromkeys(services, 0)
    recorded = resume.selected(new)
    assert recorded is not None, "the selection was just written"
    images = [image for shard in recorded.shards for image in shard.images]
    for part in parts(folder.path):
        rows = collect(folder.path, scan_versions(folder.path, [part]))
        pieces = [rows.filter(~pl.col("target").is_in(list(services)))]
        for name, judges in services.items():
            clean = {image.image: image.clean[name].names for image in images if name in image.clean}
            own = rows.filter(target=name)
            for start in range(0, own.height, _BATCH):
                before = own[start : start + _BATCH]
                after = _judged(before, judges, labels, clean)
                answers[name] += after.height
                differs = (after["names"] != before["names"]) | (after["refused"] != before["refused"])
                changed[name] += int(differs.sum())
                pieces.append(after)
        _write(part, pl.concat(pieces), new)
    return Rejudged(answers, changed)


def _judged(
    rows: pl.DataFrame, judges: _Judges, labels: LabelSet, clean: Mapping[str, tuple[str, ...] | None]
) -> pl.DataFrame:
    """Return the given rows of one chat service with new verdicts.

    `clean`: the label names that the new judge finds in the answer for each clean image, by image id.
    """

    def named(label: int | None) -> list[str] | None:
        return None if label is None else list(names_of_label(judges.remote.names, labels, label, talks=True))

    verdicts = judges.verdicts(rows)
    columns: dict[str, list[Any]] = {
        "names": [list(one.names) for one in verdicts],
        "refused": [one.refused for one in verdicts],
        "clean_names": [list(clean.get(image) or ()) for image in rows["image"]],
        "true_names": [named(label) for label in rows["label"]],
        "wanted_names": [named(label) for label in rows["target_label"]],
    }
    return rows.with_columns(pl.Series(key, values, dtype=rows.schema[key]) for key, values in columns.items())


def _write(old: StoragePath, rows: pl.DataFrame, new: RunFolder) -> None:
    """Write `rows` as a part of the run `new`, with the Parquet metadata of the part `old`."""
    found = pq.read_schema(pa.BufferReader(old.read_bytes())).metadata or {}
    metadata = {key: value for key, value in found.items() if key not in {versions.METADATA, b"ARROW:schema"}}
    content = encode_part(rows.to_arrow().cast(SCHEMA), metadata)
    new.publish_new(new.results / part_file.new_name(content, SCHEMA_VERSION), content)
