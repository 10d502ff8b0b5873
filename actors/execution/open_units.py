"""Units (an attack run on one shard) whose adversarial images exist and wait for the answers of targets."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from actors.backends.interface import Ref
from study.planning.plan import Unit
from study.results.schema import PixelDistances, TargetAnswers
from study.spec.schema import Spec


@dataclass(eq=False)
class OpenUnit:
    """A unit whose adversarial images are shown to targets now.

    Attributes:
        unit: The unit.
        distances: The distances of each adversarial image from its clean image.
        pixels: A reference to the adversarial images, which workers can read.
        waiting_for: Targets that have neither answered nor failed.
        seconds: Duration of the attack on the worker; 0 for kept images.
        kept: Whether an earlier launch kept the images, so that no attack ran in this launch.
        answers: The answers so far, one for each target that has answered.
    """

    unit: Unit
    distances: PixelDistances
    pixels: Ref
    waiting_for: set[str]
    seconds: float = 0.0
    kept: bool = False
    answers: list[TargetAnswers] = field(default_factory=list)


class OpenUnits:
    """The units of a launch whose images are shown to targets now.

    It also counts the bytes of these images, and how often the images of each unit were lost.
    """

    def __init__(self, spec: Spec) -> None:
        self._image_bytes = spec.images.bytes
        self._attempts = spec.run.attempts
        self._open: dict[str, OpenUnit] = {}
        self._losses: Counter[str] = Counter()
        self.bytes = 0
        self.most_bytes = 0
        """The highest value of `bytes` so far."""

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, opened: OpenUnit) -> bool:
        """Return whether `opened` is the latest attempt at its unit. Late answers to an earlier attempt are ignored."""
        return self._open.get(opened.unit.id) is opened

    def open(self, opened: OpenUnit) -> None:
        self._open[opened.unit.id] = opened
        self.bytes += self._bytes(opened.unit)
        self.most_bytes = max(self.most_bytes, self.bytes)

    def close(self, opened: OpenUnit) -> None:
        del self._open[opened.unit.id]
        self.bytes -= self._bytes(opened.unit)

    def retry(self, opened: OpenUnit) -> bool:
        """Close a unit whose images are lost, so that it can start again. Returns True.

        If the images were lost too often, the unit stays open, and the result is False.
        """
        if self._losses[opened.unit.id] >= self._attempts:
            return False
        self._losses[opened.unit.id] += 1
        self.close(opened)
        return True

    def _bytes(self, unit: Unit) -> int:
        budget, points = unit.craft.recipe.budget, unit.craft.points
        # A search for the minimal RMSD stores no image for each point, but two float32 images: the clean image and a
        # direction.
        return len(unit.shard.images) * self._image_bytes * (8 if budget.minimal else len(points))
