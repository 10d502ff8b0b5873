"""Find the adversarial images that another tool has made from the clean images of a study."""

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
    f"a file with the relative path or the name of the clean image and a suffix of {', '.join(_LOSSLESS)}, "
    "in the folder or its subfolders"
)
_JPEG = b"\xff\xd8\xff"


def precomputed_files(folder: Path, images: Sequence[str]) -> dict[str, Stored]:
    """Return the files in `folder` that belong to the clean images with the ids `images`, by id.

    The files are in the order of `images`. A file belongs to the image with the same relative path. If there is no such
    file, a file with the same name in any subfolder belongs to the image. The suffix of the file may differ from that
    of the image, but must be the suffix of a lossless format. Raises StudyError, with the number of images and the
    first one, if files are missing, ambiguous, or in another format, such as JPEG.
    """
    if not folder.is_dir():
        raise StudyError(
            f"the folder {folder} does not exist, or is not a folder",
            accepted="a folder with the images that another tool made",
        )
    files = sorted(_files(folder))
    lossless = [file for file in files if Path(file).suffix.lower() in _LOSSLESS]
    found = _matched(lossless, images)
    others = _matched([file for file in files if file not in set(lossless)], images)
    lossy = [others[one][0] for one in images if not found[one] and others[one]]
    lossy += [found[one][0] for one in images if len(found[one]) == 1 and _begins_as_jpeg(folder / found[one][0])]
    if lossy:
        raise StudyError(
            f"{_count(lossy, images)} in {folder} only in a format that is not accepted (the first: {lossy[0]}). "
            "JPEG and other lossy formats change the pixels of the attack",
            accepted=_ACCEPTED,
            todo="make the tool write PNGs",
        )
    missing = [one for one in images if not found[one]]
    if missing:
        raise StudyError(
            f"{_count(missing, images)} not in {folder} (the first: {missing[0]})",
            accepted=_ACCEPTED,
            todo="correct the folder, or make the missing images with the tool that made the others",
        )
    several = [one for one in images if len(found[one]) > 1]
    if several:
        raise StudyError(
            f"{_count(several, images)} in {folder} more than once (the first: {several[0]}, as "
            f"{', '.join(found[several[0]][:3])})",
            accepted=_ACCEPTED,
            todo="keep one file for each image",
        )
    owners: dict[str, list[str]] = defaultdict(list)
    for one in images:
        owners[found[one][0]].append(one)
    shared = [some for some in owners.values() if len(some) > 1]
    if shared:
        raise StudyError(
            f"{folder / found[shared[0][0]][0]} may belong to {' or to '.join(shared[0][:3])}",
            accepted=_ACCEPTED,
            todo="use the same subfolders as for the clean images",
        )
    return {one: FileImage(folder / found[one][0]) for one in images}


def _files(folder: Path) -> Iterable[str]:
    """Yield the paths of all image files that are not hidden, relative to `folder`."""
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                yield (Path(place) / name).relative_to(folder).as_posix()


def _matched(files: Sequence[str], images: Sequence[str]) -> dict[str, list[str]]:
    """Return the files that may belong to each image, by image id.

    These are the files with the relative path of the image or, if there are none, the files with its name. A file with
    the relative path of another image is left out.
    """
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
    """Return only the file named `name`, including the suffix, if there is exactly one; else return all `files`."""
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
