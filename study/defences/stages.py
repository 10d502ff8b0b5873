"""The stages of a target's `transform`, with the networks of defences loaded.

Most stages change images before the target gets them. A vote, which must be the last stage, combines several
predictions of the target into one.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from study.attacks import own_code
from study.attacks.part import PYTHON, Part
from study.defences.kinds import Defence, DefenceContext, Purifier, Vote
from study.defences.transforms import Stage, Transforms, apply_plain
from study.devices.copies import Download, uploaded
from study.errors import StudyError
from study.models.classifier import Classifier
from study.models.device_errors import OutOfMemory, attempt, halved
from study.models.predict import Prediction, answers, best_of, not_finite, predict
from study.models.weights import state_dict
from study.process.threads import host_threads
from study.reproducibility import numerics
from study.reproducibility.numerics import Precision
from study.reproducibility.rng import Streams

Images = NDArray[np.uint8] | Tensor


@dataclass(frozen=True)
class Shown:
    """Images for one target: `pixels` (V * N, C, H, W) has V versions of the N images with these `ids`.

    All N images of the first version come first, then all N images of the next version. The random draws for an image
    depend on `key` and on the image's id. Therefore all versions of an image, clean or adversarial, get the same draws.
    """

    pixels: Images
    ids: Sequence[str]
    key: Sequence[object]

    @property
    def rows(self) -> list[str]:
        """The image's id for each row of `pixels`."""
        return [*self.ids] * (len(self.pixels) // len(self.ids))


@dataclass(frozen=True)
class _Component:
    index: int
    """The index of the stage in the whole transform. The random draws of the stage depend on this index."""
    defence: Defence
    network: nn.Module | None


class Stages:
    """The stages of one transform, with their networks on `device`.

    Raises StudyError if a weights file is missing or does not fit its network, if the code of a user's class is not
    loaded, if a defence is neither a purifier nor a vote, or if a vote is not the last stage.
    """

    def __init__(self, transforms: Transforms, device: str) -> None:
        self._device = device
        self._stages = transforms.stages
        self._components = {
            index: _loaded(index, value, device)
            for index, (_, value) in enumerate(transforms.stages)
            if isinstance(value, Part)
        }
        votes = [index for index, one in self._components.items() if isinstance(one.defence, Vote)]
        if votes and votes != [len(self._stages) - 1]:
            raise StudyError(
                f"'{self._stages[votes[0]][0]}' lets the target vote, but is not the last stage",
                accepted="one vote, as the last stage of a transform",
                todo="write this stage last",
            )
        self._vote = self._components.pop(votes[0]) if votes else None

    @property
    def digest(self) -> str | None:
        """The SHA-256 of the tensors of all networks; None if no stage has a network."""
        held = [*self._components.values(), *([self._vote] if self._vote else [])]
        networks = {str(one.index): one.network for one in held if one.network is not None}
        if not networks:
            return None
        found = hashlib.sha256()
        for index, network in sorted(networks.items()):
            found.update(index.encode())
            state_dict.hash_into(found.update, network.state_dict())
        return found.hexdigest()

    def predict(
        self,
        model: Classifier,
        shown: Shown,
        *,
        batch: int,
        precision: Precision = "float32",
        whole: bool = False,
        name: str = "the model",
    ) -> Prediction:
        """Apply all stages to the images of `shown`, and return the prediction of `model` for the changed images.

        The other arguments are those of `study.models.predict.predict`. If the last stage is a vote, the probabilities
        in `top5_prob` and `whole` of the result are shares of votes, and `abstained` is set.
        """
        pixels = self.changed(shown, batch, name)
        if self._vote is None:
            return predict(
                model, pixels, batch=batch, device=self._device, precision=precision, whole=whole, name=name,
                images=shown.ids,
            )  # fmt: skip
        ballot = _Ballot(model, self._vote, self._device, precision, name)
        return ballot.predict(pixels, shown, batch, whole=whole)

    def changed(self, shown: Shown, batch: int, name: str = "the model") -> Images:
        """Return the images of `shown` after all stages except a vote."""
        pixels, rows = shown.pixels, shown.rows
        for component, places in groupby(range(len(self._stages)), key=self._components.get):
            if component is not None:
                pixels = self._purified(component, pixels, shown, batch, name)
                continue
            plain = [(index, *self._stages[index]) for index in places if self._is_plain(self._stages[index])]
            if plain:
                held = pixels if isinstance(pixels, np.ndarray) else pixels.cpu().numpy()
                keys = [(*shown.key, image) for image in rows]
                pixels = apply_plain(plain, held, keys, host_threads(self._device))
        return pixels

    @staticmethod
    def _is_plain(stage: Stage) -> bool:
        return not isinstance(stage[1], Part)

    def _purified(self, one: _Component, pixels: Images, shown: Shown, batch: int, name: str) -> Tensor:
        """Return the images after the purifier `one`, `uint8`.

        All forward passes have the same batch size, and the last one is padded. The batch size is halved if the device
        runs out of memory. Raises StudyError if a purified pixel is not finite.
        """
        rows, size, start = shown.rows, numerics.pass_size(batch, self._device), 0
        made: list[Tensor] = []
        while start < len(pixels):
            part, ids = pixels[start : start + size], rows[start : start + size]
            found = attempt(functools.partial(self._pass, one, part, _padded(ids, size), shown.key))
            if isinstance(found, OutOfMemory):
                size = halved(size, found)
                continue
            images, finite = found
            broken = np.flatnonzero(~finite[: len(ids)].cpu().numpy()).tolist()
            if broken:
                raise not_finite(f"{type(one.defence).__name__} in front of {name}", broken, ids, "pixels")
            made.append(images[: len(ids)])
            start += len(ids)
        return torch.cat(made)

    def _pass(self, one: _Component, part: Images, ids: Sequence[str], key: Sequence[object]) -> tuple[Tensor, Tensor]:
        """Return the purified images, `uint8`, and for each image, whether all its values were finite.

        `ids` include the padding of the pass, and both results do too. Raises StudyError if the shape changed.
        """
        images = _filled(part, len(ids), self._device)
        with torch.inference_mode(), numerics.pixel_algebra(self._device):
            made = one.defence.purified(images, _context(one, key, ids, self._device))  # type: ignore[attr-defined]
            if made.shape != images.shape:
                raise StudyError(
                    f"{type(one.defence).__name__} turns images of the shape {tuple(images.shape)} into images of the "
                    f"shape {tuple(made.shape)}",
                    accepted="the same shape",
                )
            finite = made.isfinite().flatten(1).all(1)
            return made.nan_to_num().clamp(0, 255).round().to(torch.uint8), finite


class _Ballot:
    """A vote of one classifier on several versions of each image."""

    def __init__(self, model: Classifier, vote: _Component, device: str, precision: Precision, name: str) -> None:
        assert isinstance(vote.defence, Vote), "the caller has checked that the defence is a vote"
        self._model = model.in_precision(precision) if precision == "bfloat16" else model
        self._component, self._vote = vote, vote.defence
        self._device, self._precision, self._name = device, precision, name

    def predict(self, pixels: Images, shown: Shown, batch: int, *, whole: bool) -> Prediction:
        rows, size, start = shown.rows, numerics.pass_size(batch, self._device), 0
        counts = np.zeros((len(pixels), self._model.labels), dtype=np.int64)
        while start < len(pixels):
            # One round takes `size` images, so that the versions of these images fill whole passes of `size`.
            part, ids = pixels[start : start + size], rows[start : start + size]
            found = attempt(functools.partial(self._votes, part, ids, shown.key, size))
            if isinstance(found, OutOfMemory):
                size = halved(size, found)
                continue
            labels, voters = found
            broken = voters[labels < 0]
            if len(broken):
                raise not_finite(self._name, sorted(set(broken.tolist())), ids)
            np.add.at(counts, (start + voters, labels), 1)
            start += len(ids)
        shares = (counts / self._vote.versions).astype(np.float32)
        top = best_of(counts)
        abstained = self._vote.abstains(counts)
        return Prediction(top, np.take_along_axis(shares, top, 1), shares if whole else None, size, abstained=abstained)

    def _votes(
        self, part: Images, ids: Sequence[str], key: Sequence[object], size: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the predicted label of each version of each image, and the index of the image in `part`.

        Both arrays are int64 (versions * images,). A label is -1 if the logits of this version are not finite.
        """
        images = _filled(part, len(ids), self._device)
        found = [
            Download(answers(self._model, one, self._device, self._precision))
            for one in _passes(self._versions(images, ids, key), size)
        ]
        labels = np.concatenate([array for one in found for array in one.arrays()])
        voters = np.tile(np.arange(len(ids)), self._vote.versions)
        return labels[: len(voters)].astype(np.int64), voters

    def _versions(self, images: Tensor, ids: Sequence[str], key: Sequence[object]) -> Iterator[Tensor]:
        context = _context(self._component, key, ids, self._device)
        for number in range(self._vote.versions):
            with torch.inference_mode(), numerics.pixel_algebra(self._device):
                version = self._vote.made(images, context, number)
            yield version


def _passes(parts: Iterator[Tensor], size: int) -> Iterator[Tensor]:
    """Yield the images of all `parts` in batches of `size`. The last batch is padded with copies of its last image."""
    held: Tensor | None = None
    for part in parts:
        held = part if held is None else torch.cat([held, part])
        while len(held) >= size:
            yield held[:size]
            held = held[size:]
    if held is not None and len(held):
        yield torch.cat([held, held[-1:].expand(size - len(held), -1, -1, -1)])


def _filled(part: Images, size: int, device: str) -> Tensor:
    """Return the images of `part` as float32 on `device`, padded to `size` images with copies of the last image."""
    held = part if isinstance(part, Tensor) else uploaded(part, device)
    if len(held) < size:
        held = torch.cat([held, held[-1:].expand(size - len(held), -1, -1, -1)])
    return held.to(torch.float32)


def _padded(ids: Sequence[str], size: int) -> list[str]:
    return [*ids, *[ids[-1]] * (size - len(ids))]


def _context(one: _Component, key: Sequence[object], ids: Sequence[str], device: str) -> DefenceContext:
    streams = Streams((*key, "transform", one.index), ids)
    return DefenceContext(one.network, streams, one.defence.stream, device)


def _loaded(index: int, part: Part, device: str) -> _Component:
    component = own_code.loaded_or_placeholder(part)
    if not isinstance(component, Purifier | Vote):
        # The classes of placeholders are defined in `own_code`, and all others elsewhere.
        if part.python is None or type(component).__module__ != own_code.__name__:
            raise StudyError(
                f"'{part.python or part.name}' is neither a purifier nor a vote",
                accepted="a defence that derives from `Purifier` or from `Vote`",
            )
        raise StudyError(
            f"{part.python} is your own code, and is not loaded",
            accepted="--allow-code, for code that you trust: it runs with all your rights",
            todo="add --allow-code to the command",
        )
    network = component.network()
    if network is None:
        return _Component(index, component, None)
    file = component.weights_file
    if file is not None:
        called = f"{part.name or str(part.python)} (transform)"
        state = component.renamed(state_dict.read(file))
        state_dict.load(network, state, called=called, origin=str(file))
    return _Component(index, component, network.eval().requires_grad_(False).to(device))


def check_files(transforms: Transforms) -> None:
    """Check that the weights files of the project's own defences fit the networks of these defences.

    The check compares names, shapes and types of tensors. It does not run a user's own class: the weights of such a
    class are checked when the class runs. Raises StudyError if a file is missing or does not fit its network.
    """
    for name, value in transforms.stages:
        if not isinstance(value, Part) or name == PYTHON:
            continue
        component = value.component()
        assert isinstance(component, Defence), "every component in a transform is a defence"
        file = component.weights_file
        if file is None:
            continue
        if not file.is_file():
            raise StudyError(
                f"the weights file {file} does not exist, or is a folder",
                todo=f"correct `{name}: {{weights: file:…}}`",
            )
        with torch.device("meta"):
            network = component.network()
        assert network is not None, "a defence with a weights file has a network"
        state = component.renamed(state_dict.outline(file))
        state_dict.fitted(network, state, called=name, origin=str(file))
