"""Messages between the driver and the tracking process. `multiprocessing.connection` pickles them."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from study.tracking.history import Outline, Row
from study.tracking.tracker import RunInfo


@dataclass(frozen=True)
class Begin:
    """The first message.

    Attributes:
        run: The run of the tracking service.
        results: The run folder, or its address.
        outline: The part of the plan that the history needs.
        replay: Whether the process must first add the rows of the run folder.
        left: Number of units that the launch has to do.
    """

    run: RunInfo
    results: str
    outline: Outline
    replay: bool
    left: int


@dataclass(frozen=True)
class UnitRows:
    """The result rows of some units, with `history.COLUMNS`."""

    rows: pa.Table


@dataclass(frozen=True)
class LiveMetrics:
    """The state of the launch, as metrics."""

    row: Row


@dataclass(frozen=True)
class RowsWritten:
    """All rows of the launch are in the run folder, so the final results can be made and logged.

    Attributes:
        live: The last state of the launch, as metrics.
        replay: Whether the process has missed rows and must first add the rows of the run folder.
    """

    live: Row
    replay: bool


@dataclass(frozen=True)
class End:
    """The last message, after `RowsWritten`: the process waits for the final results and ends the run."""

    status: int


Message = Begin | UnitRows | LiveMetrics | RowsWritten | End


@dataclass(frozen=True)
class Ready:
    """The run has begun."""

    address: str | None


@dataclass(frozen=True)
class Trouble:
    """A line for the user."""

    text: str
