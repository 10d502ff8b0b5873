"""Writes the rows of finished units to the run folder, and their adversarial images if the run keeps images."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from actors.backends.interface import Backend
from actors.execution.clean_images import Images
from actors.execution.driver import Sink
from actors.execution.open_units import OpenUnit
from study.models.services.label_names import names_of_label
from study.planning.plan import Plan
from study.results.kept_images import KeepingWriter
from study.results.schema import UnitResult, WantedNames
from study.results.writer import Writer


class Rows(Protocol):
    """Writes units whose targets have all answered or failed."""

    @property
    def sinks(self) -> Collection[Sink]:
        """The buffers of rows."""

    @property
    def waiting_bytes(self) -> int:
        """Bytes of images that are not published yet."""

    def keep(self, opened: OpenUnit) -> None:
        """Keep the images of a unit, if the run keeps images. Raises PixelsLost if they no longer exist.

        This must be called before `write`.
        """

    def write(self, opened: OpenUnit) -> UnitResult | None:
        """Write the rows of a unit, and return its result; None if no target has answered."""


class RowSink:
    """Writes rows to a run folder. If the writer is a `KeepingWriter`, it also keeps the images of each unit."""

    def __init__(self, plan: Plan, writer: Writer, images: Images, backend: Backend) -> None:
        """`images`: the clean images. A kept image is stored as its difference from the clean image."""
        self._writer = writer
        self._keeping = writer if isinstance(writer, KeepingWriter) else None
        self._images = images
        self._backend = backend
        self._wanted = _wanted(plan)

    @property
    def sinks(self) -> Collection[Sink]:
        return (self._writer,)

    @property
    def waiting_bytes(self) -> int:
        return self._keeping.waiting_bytes if self._keeping else 0

    def keep(self, opened: OpenUnit) -> None:
        unit = opened.unit
        if self._keeping is not None and not opened.kept and unit.craft.keepable:
            pixels = self._backend.pixels(opened.pixels)
            self._keeping.keep(unit, opened.distances, self._images.pixels(unit.shard), pixels)

    def write(self, opened: OpenUnit) -> UnitResult | None:
        if not opened.answers:
            return None
        order = {target: index for index, target in enumerate(opened.unit.targets)}
        answers = sorted(opened.answers, key=lambda one: order[one.target])
        result = UnitResult(opened.unit, opened.distances, answers, self._wanted)
        self._writer.add_result(result)
        return result


def _wanted(plan: Plan) -> WantedNames:
    """Return the names that each remote service uses for the target labels of the images, by service and label.

    For chat services, the names of the true labels are included.
    """
    images = [image for shard in plan.shards for image in shard.images]
    wanted, true = {one.target_label for one in images}, {one.label for one in images}
    return {
        name: {
            label: names_of_label(model.remote.names, plan.spec.labels, label, talks=model.remote.api == "chat")
            for label in (wanted | true if model.remote.api == "chat" else wanted)
        }
        for name, model in plan.spec.models.items()
        if model.remote is not None
    }
