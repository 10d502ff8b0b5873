"""Records versions and hardware in the metadata of every Parquet part, because the rows depend on both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from actors.scheduling.scheduler import Scheduler
from study.reproducibility import float_environment
from study.spec.schema import Spec


class Provenance(Mapping[str, str]):
    """The metadata of a Parquet part: versions, numerics, and the arithmetic of all workers that have come up so far.

    The arithmetic is what determines how workers round floats. It is read anew at each access, because workers may
    join.
    """

    def __init__(self, spec: Spec, scheduler: Scheduler) -> None:
        import torch

        import study

        self._scheduler = scheduler
        self._fixed = {
            "study": spec.study,
            "version": study.__version__,
            "torch": str(torch.__version__),
            "numerics": spec.numerics.model_dump_json(),
        }

    def __getitem__(self, key: str) -> str:
        return self._now()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._now())

    def __len__(self) -> int:
        return len(self._now())

    def _now(self) -> dict[str, str]:
        workers = self._scheduler.arithmetics
        return {
            **self._fixed,
            "hardware": "; ".join(sorted({one.processor for one in workers})),
            "arithmetic": float_environment.text(workers),
        }
