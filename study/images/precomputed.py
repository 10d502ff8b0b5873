"""Adversarial images that another tool made: which file belongs to which clean image."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from study.errors import StudyError
from study.images.folders import SUFFIXES, without_suffix
from study.images.location import FileImage, Stored

_LOSSLESS = (".png", ".bmp", ".tif", ".tiff")
_ACCEPTED = (
    f"the clean image's relative path, its name, or its name with another suffix; {', '.join(_LOSSLESS)}; "
    "in the folder or in folders inside it"
)
_JPEG = b"\xff\xd8\xff"


def made(folder: Path, images: Sequence[str]) -> dict[str, Stored]:
    """The files of `folder` that were made of the clean images with these ids, in their order.

    A file belongs to an image by its relative path; else by its name alone, wherever in the folder it lies; the suffix
    may differ, but has to be that of a lossless format. Raises StudyError, with a number and the first image, where
    files are missing, where more than one could be meant, and where they are JPEGs.
    """
    if not folder.is_dir():
        raise StudyError(f"the folder {folder} does not exist", accepted="a folder with the images that a tool made")
    files = sorted(_files(folder))
    lossless = [file for file in files if Path(file).suffix.lower() in _LOSSLESS]
    found = _matched(lossless, images)
    others = _matched([file for file in files if file not in set(lossless)], images)
    lossy = [others[one][0] for one in images if not found[one] and others[one]]
    lossy += [found[one][0] for one in images if len(found[one]) == 1 and _begins_as_jpeg(folder / found[one][0])]
    if lossy:
        raise StudyError(
            f"{_count(lossy, images)} in {folder} only as a JPEG or the like (the first: {lossy[0]}): "
            "a JPEG is not what the attack made",
            accepted=_ACCEPTED,
            todo="let the tool write PNGs",
        )
    missing = [one for one in images if not found[one]]
    if missing:
        raise StudyError(
            f"{_count(missing, images)} not in {folder} (the first: {missing[0]})",
            accepted=_ACCEPTED,
            todo="correct the folder, or let the tool make the images that are missing",
        )
    several = [one for one in images if len(found[one]) > 1]
    if several:
        raise StudyError(
            f"{_count(several, images)} in {folder} more than once (the first: {several[0]}, as "
            f"{', '.join(found[several[0]][:3])})",
            accepted=_ACCEPTED,
            todo="leave one file for each image",
        )
    owners: dict[str, list[str]] = defaultdict(list)
    for one in images:
        owners[found[one][0]].append(one)
    shared = [some for some in owners.values() if len(some) > 1]
    if shared:
        raise StudyError(
            f"{folder / found[shared[0][0]][0]} may be made of {' or of '.join(shared[0][:3])}",
            accepted=_ACCEPTED,
            todo="put the files into the folders of the clean images",
        )
    return {one: FileImage(folder / found[one][0]) for one in images}


def _files(folder: Path) -> Iterable[str]:
    """Relative paths of all image files, hidden ones left out."""
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                yield (Path(place) / name).relative_to(folder).as_posix()


def _matched(files: Sequence[str], images: Sequence[str]) -> dict[str, list[str]]:
    """The files that may belong to each image: by relative path if there is one; else, of files that belong to no other
    image by theirs, by name."""
    by_path, by_name = defaultdict(list), defaultdict(list)
    for file in files:
        by_path[without_suffix(file)].append(file)
    own = {one: _exact(by_path.get(without_suffix(one), []), one) for one in images}
    taken = {file for some in own.values() for file in some}
    for file in files:
        if file not in taken:
            by_name[without_suffix(Path(file).name)].append(file)
    named = {one: Path(one).name for one in images}
    return {one: some or _exact(by_name.get(without_suffix(named[one]), []), named[one]) for one, some in own.items()}


def _exact(files: list[str], name: str) -> list[str]:
    """Of files that differ in their suffix, the one that has the very name, if there is one."""
    same = [file for file in files if file == name or Path(file).name == name]
    return same if len(same) == 1 else files


def _begins_as_jpeg(path: Path) -> bool:
    try:
        with path.open("rb") as opened:
            return opened.read(len(_JPEG)) == _JPEG
    except OSError as error:
        raise StudyError(f"the image {path} cannot be read: {error.strerror}") from None


def _count(some: Sequence[str], images: Sequence[str]) -> str:
    return f"{len(some)} of {len(images)} images {'is' if len(some) == 1 else 'are'}"
