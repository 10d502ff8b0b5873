"""Check the weights files of the measures of visibility before a study starts."""

from __future__ import annotations

from collections.abc import Callable

from study.errors import StudyError
from study.visibility.settings import VisibilityOptions


def check_measures(options: VisibilityOptions, where: Callable[..., str]) -> None:
    """Check that the names, shapes and types of the tensors in the LPIPS file fit the network of LPIPS.

    `where("visibility", "lpips")` returns the place in the spec. Raises StudyError with this place if the file is
    missing or does not fit.
    """
    if options.lpips is None:
        return
    from study.visibility.lpips import check_file

    try:
        check_file(options.lpips)
    except StudyError as error:
        raise error.located(where("visibility", "lpips")) from None
