"""The plan of a study whose images are selected: its attack runs and its probes, and how many units are left."""

from __future__ import annotations

from dataclasses import dataclass

from study.geometry import store as probe_store
from study.geometry.plan import GeometryPlan
from study.images.selection import Selection
from study.planning.plan import Plan
from study.results import scanning
from study.results.kept_images import KeptImages
from study.spec.schema import Spec
from study.storage.run_folder import RunFolder


@dataclass(frozen=True)
class StudyPlan:
    """The selected images, and the plans of attack runs and probes on them."""

    selection: Selection
    attacks: Plan
    probes: GeometryPlan

    def left(self, folder: RunFolder) -> int:
        """Return the number of unfinished units of attack runs and probes.

        A unit is unfinished if it lacks rows, or if it lacks images and the run keeps images.
        """
        finished = probe_store.done(folder.path, self.probes.spec.geometry)
        units = self.attacks.units(scanning.done(folder.path), kept=KeptImages(folder).units)
        return sum(1 for _ in units) + sum(1 for _ in self.probes.units(finished))


def plan_study(spec: Spec, selection: Selection) -> StudyPlan:
    """Return the plans of attack runs and probes. This hashes the files of precomputed images.

    Raises StudyError if precomputed images or a probe do not fit the selected images.
    """
    digests = {name: model["digest"] for name, model in selection.models.items()}
    return StudyPlan(selection, Plan(spec, digests, selection.shards), GeometryPlan(spec, digests, selection.shards))
