"""Check the files of measures of visibility before a study starts."""

from __future__ import annotations

from collections.abc import Callable

from study.errors import StudyError
from study.visibility.settings import VisibilityOptions


def check_measures(options: VisibilityOptions, where: Callable[..., str]) -> None:
    """Compare names, shapes and types of the tensors in the file of LPIPS with its network.

    `where("visibility", "lpips")` returns the place in the spec. Raises StudyError, with this place, if they differ.
    """
    if options.lpips is None:
        return
    from study.visibility.lpips import check_file

    try:
        check_file(options.lpips)
    except StudyError as error:
        raise error.located(where("visibility", "lpips")) from None
