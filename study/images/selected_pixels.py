"""Read the clean images of a run again from their files.

Kept adversarial images are stored as differences from the clean images, so they cannot be read without these images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from study.errors import StudyError
from study.images import decoding
from study.images.image_sets import ImageSet, candidates
from study.images.selection import Selected

_TODO = "restore the {}: kept images are stored as differences from clean images"


class SelectedPixels:
    """A reader of selected images, which checks that the files still contain the images that were selected."""

    def __init__(self, images: ImageSet, seed: int, selected: Sequence[Selected]) -> None:
        """Find the files of the images in `selected`. `seed` is the study's seed.

        Raises StudyError if the image set lacks one of these images.
        """
        self._images = images
        self._files = {one.image: one.file for one in candidates(images, seed)}
        missing = [one.image for one in selected if one.image not in self._files]
        if missing:
            count = f"{len(missing):,} clean image{'s' * (len(missing) > 1)}"
            what = f"{count} of the run {'are' if len(missing) > 1 else 'is'} not in the image set"
            raise StudyError(f"{what}, e.g. {missing[0]}", todo=_TODO.format("files"))

    def read(self, selected: Sequence[Selected]) -> NDArray[np.uint8]:
        """Return the images, `uint8` (N, C, S, S).

        Raises StudyError if an image cannot be read, or has changed since the study began.
        """
        found = []
        for one in selected:
            found.append(decoding.read(self._files[one.image], self._images))
            if decoding.digest(found[-1]) != one.digest:
                raise StudyError(
                    f"the image {self._files[one.image]} has changed since the study began",
                    todo=_TODO.format("old file"),
                )
        return np.stack(found)
