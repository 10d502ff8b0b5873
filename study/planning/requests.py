"""The number of requests that a plan sends to each remote service, counted before the first request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from study.attacks.recipe import Goal
from study.errors import StudyError
from study.spec.schema import SourceSet, Spec
from study.terminal.screen import counted

_Run = tuple[SourceSet, str, Goal, int]


@dataclass(frozen=True)
class Requests:
    """Requests of a study to one service: `images` clean images, and up to `versions` adversarial images of each."""

    images: int
    versions: int

    @property
    def total(self) -> int:
        """The largest number of requests if no request fails. Fewer are sent if answers are already stored."""
        return self.images * (1 + self.versions)


def requests(spec: Spec, images: int) -> dict[str, Requests]:
    """Return the requests of a study with `images` clean images, by service.

    Repeated attempts after a failure do not count.
    """
    return {name: Requests(images, _versions(spec, name)) for name in spec.services}


def _versions(spec: Spec, service: str) -> int:
    """Return the largest number of adversarial images that a service gets for each clean image.

    Each attack run contributes one image for each of its points, but at most as many as the service's key `queries`
    allows.
    """
    remote = spec.models[service].remote
    assert remote is not None, "a service belongs to a remote model"
    runs: set[_Run] = set()
    for experiment in spec.experiments.values():
        if service in spec.targets(experiment):
            for sources in spec.source_sets(experiment):
                for goal in experiment.goal:
                    for seed in spec.seeds_of(experiment):
                        for attack in experiment.attacks:
                            runs |= {(sources, one, goal, seed) for one in _with_references(spec, attack)}
    points = [len(spec.attacks[attack].scored_points) for _, attack, _, _ in runs]
    return sum(one if remote.queries is None else min(one, remote.queries) for one in points)


def _with_references(spec: Spec, attack: str) -> list[str]:
    """Return the attack, and the chain of attacks that its budget is matched to.

    Requests for all these attacks must be counted, because the targets of the attack also predict the images of the
    others.
    """
    found = [attack]
    while (reference := spec.attacks[found[-1]].budget.to) is not None and reference not in found:
        found.append(reference)
    return found


def check_requests(spec: Spec, images: int, where: Callable[..., str]) -> None:
    """Raise StudyError, with the place in the spec, if a service would get more requests than its limit `most`.

    `images` is the number of clean images. `where` returns the place of a key in the spec.
    """
    for name, needed in requests(spec, images).items():
        remote = spec.models[name].remote
        if remote is not None and remote.most is not None and needed.total > remote.most:
            raise StudyError(
                f"the study sends {name} up to {needed.total:,} requests: {counted(images, 'clean image')}, and up to "
                f"{counted(needed.versions, 'adversarial version')} of each; `most` is {remote.most:,}",
                where=where("models", name, "remote", "most"),
                todo="raise `most`; or lower images.count, attacks, seeds, checkpoints or `queries`. Nothing was sent",
            )
