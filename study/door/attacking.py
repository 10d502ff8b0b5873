"""`study.attack` runs an attack from Python, on any torch module, with images as tensors or arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from study.attacks import presets
from study.attacks.recipe import Attack, Goal
from study.errors import StudyError
from study.reproducibility import numerics
from study.reproducibility.numerics import Asked
from study.spec import validation_errors, yaml_document
from study.spec.budget_units import check_attack
from study.spec.other_names import unknown_preset
from study.spec.yaml_document import Document

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from study.attacks.door_images import Images, Statistic
    from study.door.scaled_model import SourceModel

_Given = TypeVar("_Given", bound="Images")


class Recipe:
    """An attack that can be called: `adversarial = recipe(model, images, labels)`."""

    def __init__(self, name: str, attack: Attack) -> None:
        self.name = name
        self.attack = attack

    def describe(self) -> str:
        """Return the parameters of the attack as YAML with the keys of a spec. The last line has the cost."""
        kept = {key: value for key, value in self.attack.model_dump(mode="json").items() if value not in _OFF}
        if isinstance(kept.get("budget"), dict):
            kept["budget"] = {key: value for key, value in kept["budget"].items() if value is not None}
        cost = self.attack.gradients(self.attack.steps, 1)
        text = yaml_document.dump({self.name: kept})
        return f"{text}# {cost} gradient{'' if cost == 1 else 's'} per image and source model"

    def __call__(
        self,
        model: nn.Module | Sequence[nn.Module],
        images: _Given,
        labels: Tensor | NDArray[Any] | Sequence[int],
        *,
        goal: Goal = "untargeted",
        mean: Statistic | None = None,
        std: Statistic | None = None,
        seed: int = 0,
        batch: int = 8,
        precision: Asked = "auto",
    ) -> _Given:
        """Attack images, and return adversarial images of the same type, dtype and range.

        The adversarial images are 8-bit images within the budget, converted back to the type of `images`.

        Args:
            model: A torch module in eval mode, or a list of modules (an ensemble). A module gets images in 0..1. If
                `mean` and `std` are given, these images are also normalised.
            images: The clean images (N, C, H, W): `uint8`, floats in 0..1, or, with `mean` and `std`, normalised
                floats. A float that is no 8-bit value is first rounded to the nearest 8-bit value.
            labels: The true labels (N,), or, if `goal` is `targeted`, the target labels (N,).
            goal: `untargeted`: the model shall not predict the true label; `targeted`: the model shall predict the
                target label.
            mean: The mean of each channel that the model expects; None if the model expects images in 0..1.
            std: The standard deviation of each channel that the model expects; None as for `mean`.
            seed: The seed of all random numbers. The random numbers of an image depend on the attack's name, the goal,
                the seed and the image, but not on the other images or on the order.
            batch: The number of images in one pass.
            precision: The precision of the models' passes: float32, tf32, bfloat16 or auto. `auto` is tf32 on a GPU and
                float32 on a CPU.

        Raises StudyError for images, labels or models that do not fit, and for a `budget.gradients` that allows
        no step. The error says what is accepted.
        """
        from study.attacks import door_images

        door_images.check_statistics(mean, std)
        models = list(model) if isinstance(model, Sequence) else [model]
        eight_bit = str(images.dtype).removeprefix("torch.") == "uint8"
        pixels, restore = door_images.to_pixels(
            images, mean=None if eight_bit else mean, std=None if eight_bit else std
        )
        wanted = door_images.to_labels(labels, len(pixels))
        from study.door.scaled_model import scaled

        sources = [scaled(one, mean, std) for one in models]
        made = self._crafted(sources, pixels, wanted, goal, seed=seed, batch=batch, precision=precision)
        found: _Given = restore(made)
        return found

    def _crafted(
        self,
        sources: Sequence[SourceModel],
        pixels: NDArray[Any],
        labels: NDArray[np.int64],
        goal: Goal,
        *,
        seed: int,
        batch: int,
        precision: Asked,
    ) -> NDArray[np.uint8]:
        import numpy as np

        from study.attacks.external.run import run_external
        from study.attacks.kinds import Pool
        from study.attacks.loop import Engine, ImageBatch, craft

        clean = np.rint(pixels).astype(np.uint8)
        ids = [hashlib.sha256(one.tobytes()).hexdigest()[:16] for one in clean]
        given = ImageBatch(clean, labels, ids)
        device = sources[0].device
        engine = Engine(batch=batch, device=device, layout="contiguous", precision=numerics.settled(precision, device))
        key = ("attack", self.name, goal, seed)
        if self.attack.external is not None:
            level = self.attack.budget.levels[0]
            outcome = run_external(
                self.attack.external, sources, given, goal, epsilon=level, key=key, engine=engine, allow_code=True
            )
            return outcome.pixels
        pool = Pool(clean, labels) if self.attack.others else None
        attack = self._with_steps(len(sources))
        made = craft(sources, attack, goal, given, key=key, engine=engine, pool=pool)
        # The images of the finished attack come last, after the images of earlier checkpoints and budgets.
        return made.pixels[-len(clean) :]

    def _with_steps(self, sources: int) -> Attack:
        """Return the attack with the number of steps that its `budget.gradients` allows.

        `sources`: the number of source models, each of which costs gradients. Without `budget.gradients`, the attack is
        returned unchanged.
        """
        limit = self.attack.budget.gradients
        if limit is None:
            return self.attack
        from study.attacks.costs import fitting_steps

        (steps,) = fitting_steps(self.name, self.attack, [limit], [sources], where="study.attack")
        return self.attack.model_copy(update={"steps": steps, "checkpoints": ()})

    def __repr__(self) -> str:
        return f"<study.attack {self.name}: epsilon {self.attack.budget.epsilon}, {self.attack.steps} steps>"


_OFF: tuple[Any, ...] = (None, False, [], {}, 0.0)


def attack(recipe: str | Mapping[str, Any], /, **changed: Any) -> Recipe:
    """Return an attack that can be called on a model, images and labels.

    `recipe` is the name of a preset (`"mi"`), presets joined by `+` (`"mi+di"`), or the keys of an attack of a spec.
    `changed`: keys that replace keys of `recipe`, as in `study.attack("mi+di", epsilon=8, steps=20)`. All lengths are
    in pixel values, 0..255.

    Raises StudyError for an unknown preset or key, for keys that do not fit together, and for an attack that needs a
    whole study. Such an attack has precomputed images, a budget that is matched to another attack, or a budget that is
    searched for each target.
    """
    if isinstance(recipe, str):
        name, keys = _checked(recipe), presets.keys_of(recipe, changed)
    else:
        name, keys = "attack", {**recipe, **changed}
        preset = keys.pop("preset", None)
        if preset is not None:
            name, keys = _checked(preset), presets.keys_of(preset, keys)
    document = Document("study.attack", keys)
    try:
        found = Attack.model_validate(keys)
    except ValidationError as error:
        raise validation_errors.first_error(error, document, Attack) from None
    check_attack(found, document, ())
    if found.budget.matched or found.budget.minimal is not None or found.precomputed is not None:
        raise StudyError(
            f"the attack '{name}' needs a whole study and cannot be called on its own",
            where="study.attack",
            accepted="an attack without `precomputed`, with a budget such as epsilon=8, budget={'l2': 1000} or "
            "budget={'rmsd': 9}",
            todo="change these keys, or use study.launch",
        )
    if found.step_size is None and (size := found.automatic_step_size) is not None:
        found = found.model_copy(update={"step_size": size})
    return Recipe(name, found)


def _checked(preset: object) -> str:
    """Return `preset`. Raises StudyError if it is not the name of a preset."""
    if not isinstance(preset, str) or presets.preset(preset) is None:
        raise unknown_preset(str(preset), where="study.attack")
    return preset
