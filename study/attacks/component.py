"""A component: one exchangeable part of an attack, with its parameters, its cost, and its entry in an id."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from study.spec.frozen import Frozen


class BudgetOutline(Protocol):
    """The properties of an attack's budget that the components of the attack can read."""

    @property
    def kind(self) -> str:
        """The name of the budget's rule: epsilon, l2, rmsd, minimal, none, or the name of another budget component."""
        ...

    @property
    def epsilon(self) -> object:
        """The L-infinity norm or norms, as the spec gives them; None for another budget."""
        ...

    @property
    def levels(self) -> tuple[float | None, ...]:
        """The lengths of the budget, in the unit of the spec.

        The result is (None,) if the budget has no length, or if the length depends on the image or the target.
        """
        ...


@dataclass(frozen=True)
class AttackOutline:
    """The properties of an attack that its components read to find conflicts.

    `parts` has the names of the components by kind. `step_size` is None if the spec gives none. `first` says whether
    the attack has a first stage, whose finished images its components can use.
    """

    parts: Mapping[str, Collection[str]]
    budget: BudgetOutline
    steps: int
    step_size: float | None
    first: bool = False


@dataclass(frozen=True)
class HeldMemory:
    """The additional memory that an attack occupies between passes.

    The memory for the network, for one pass and for a few images is not included.

    Attributes:
        weights: Number of copies of the parameters of each source model.
        features: Number of images for which the features of all layers of each source model are kept.
        tables: Number of tables that the attack keeps on a GPU. With images of S x S pixels, a table has S^3 floats.
    """

    weights: float = 0.0
    features: float = 0.0
    tables: float = 0.0

    def __add__(self, other: HeldMemory) -> HeldMemory:
        return HeldMemory(self.weights + other.weights, self.features + other.features, self.tables + other.tables)


class Component(Frozen):
    """The base of all components. A subclass declares its parameters as pydantic fields.

    - `kind` is one of the kinds in `study.attacks.kinds`, or `defence`, and `name` is the word that a spec uses;
    - `version` is part of every id. Increase it when the component gives other pixels than before for the same
      parameters, because a computation, a default or a random draw has changed. A new parameter whose default changes
      nothing needs no new version, and changes no id;
    - `main` names the parameter that a value without a key sets: `{scales: 5}` is short for `{scales: {copies: 5}}`.
    """

    kind: ClassVar[str]
    name: ClassVar[str]
    version: ClassVar[int] = 1
    main: ClassVar[str | None] = None
    streams: ClassVar[str | None] = None
    """The name under which the component draws random numbers; None stands for `name`."""
    uses_first: ClassVar[bool] = False
    """Whether the component needs the finished images of the attack's first stage."""

    def identity(self) -> list[Any]:
        """Return the component's entry in an id.

        It has the kind, the name, the version, and the parameters that differ from their defaults.
        """
        return [self.kind, self.name, self.version, self.model_dump(mode="json", exclude_defaults=True)]

    def conflicts(self, attack: AttackOutline) -> Iterator[str]:
        """Yield a sentence for each reason why this component does not fit the rest of `attack`."""
        yield from ()

    @property
    def first_points(self) -> int:
        """Number of images of the attack's first stage that the component reads for each clean image.

        The images are those at the last checkpoints of the first stage, and then the finished image.
        """
        return 1

    @property
    def others(self) -> int:
        """Number of images that the component needs in the pool, to mix them into other images; 0 if it mixes none."""
        return 0

    @property
    def held_memory(self) -> HeldMemory:
        """The memory that the component keeps between passes, beyond a few float images for each image."""
        return HeldMemory()

    @property
    def reads_true_labels(self) -> bool:
        """Whether the component reads the true labels even if the goal is targeted."""
        return False

    @property
    def stream(self) -> str:
        """The name under which the component draws random numbers: `streams`, or `name` if `streams` is None."""
        return self.streams or self.name
