"""With `study launch --inline`, shows an error in the code of a model or an attack as one message."""

from __future__ import annotations

import contextlib
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

from study.errors import StudyError, first_line

_INSTALLED = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib"))


@contextlib.contextmanager
def as_one_message() -> Iterator[None]:
    """Return a context that turns every error except StudyError into a StudyError.

    The message names the last line of code outside installed packages. `study.launch(…, inline=True)` raises the
    original error instead.
    """
    try:
        yield
    except StudyError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if not any(Path(frame.filename).is_relative_to(one) for one in _INSTALLED)]
        last = (ours or frames)[-1]
        raise StudyError(
            f"{type(error).__name__}: {first_line(error)}",
            where=f"{last.filename}, line {last.lineno}, in {last.name}",
            todo="read the traceback in study.log in the run folder; to stop at that line, write breakpoint() into "
            "your code, or call study.launch(…, inline=True) in a debugger. Finished work is kept",
            status=1,
        ) from error
