"""What rounds a float beside the spec: the processor, the libraries, and what the environment tells them.

Read in the process that computes, recorded in the run folder and in every part, and compared by every launch.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field

from study.errors import StudyError
from study.reproducibility.hardware import hardware
from study.reproducibility.hashing import digest
from study.storage.run_folder import RunFolder

_VARIABLES = re.compile(
    r"ATEN_CPU_CAPABILITY|(ONEDNN|DNNL|MKLDNN)_(MAX_CPU_ISA|CPU_ISA_HINTS|DEFAULT_FPMATH_MODE)"
    r"|MKL_(CBWR|ENABLE_INSTRUCTIONS|DEBUG_CPU_TYPE|DYNAMIC|VML_MODE|BLAS_MODE)|OPENBLAS_CORETYPE"
    r"|NVIDIA_TF32_OVERRIDE|TORCH_ALLOW_TF32_CUBLAS_OVERRIDE|TORCH_CUDNN_V8_API_\w+|TORCH_BLAS_PREFER_\w+"
    r"|CUBLAS_WORKSPACE_CONFIG|CUBLASLT_WORKSPACE_SIZE|CUBLAS_EMULAT\w+|PYTORCH_TUNABLEOP_(ENABLED|TUNING)"
    r"|TORCHINDUCTOR_(MAX_AUTOTUNE\w*|FREEZING|EMULATE_\w+|FALLBACK_RANDOM)|DISABLE_ADDMM_CUDA_LT"
)
"""Of the environment. Threads are none of it: the spec says how many, and workers set them."""

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow")
_LIBRARIES = {"mkl": r"Math Kernel Library Version (\S+)", "onednn": r"MKL-DNN (v\S+)|oneDNN (v\S+)"}


@dataclass(frozen=True)
class Arithmetic:
    """What a worker computes with.

    Attributes:
        processor: The GPU, or the processor, by name.
        capability: The instruction set that PyTorch's own kernels use on the processor.
        releases: Of the libraries that compute, by name.
        environment: Variables that change which kernels those libraries take, with their values.
    """

    processor: str
    capability: str
    releases: Mapping[str, str] = field(hash=False)
    environment: Mapping[str, str] = field(hash=False)

    @property
    def digest(self) -> str:
        """The beginning of a SHA-256 of all of it."""
        return digest(asdict(self))[:12]

    def __str__(self) -> str:
        given = ", ".join(f"{name}={value}" for name, value in self.environment.items())
        return f"{self.processor} ({self.capability}), torch {self.releases.get('torch', 'unknown')}" + (
            f", {given}" if given else ""
        )


def here(device: str) -> Arithmetic:
    """Of this process, computing on a torch device."""
    import torch

    built = torch.__config__.show()
    found = {name: re.search(pattern, built) for name, pattern in _LIBRARIES.items()}
    libraries = {name: next(filter(None, match.groups())) for name, match in found.items() if match}
    if torch.device(device).type == "cuda":
        libraries |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}  # type: ignore[no-untyped-call]
    installed = {name: version for name in _PACKAGES if (version := _version(name)) is not None}
    variables = {name: value for name, value in sorted(os.environ.items()) if _VARIABLES.fullmatch(name) and value}
    return Arithmetic(
        hardware(device),
        torch.backends.cpu.get_cpu_capability(),
        dict(sorted((installed | libraries).items())),
        variables,
    )


def _version(package: str) -> str | None:
    try:
        found: str = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
    return found


def text(workers: Iterable[Arithmetic]) -> str:
    """Canonical JSON of what different workers compute with, for the metadata of a part."""
    return json.dumps([asdict(one) for one in _ordered(workers)], sort_keys=True, separators=(",", ":"))


def recorded(folder: RunFolder) -> list[Arithmetic]:
    """What earlier launches computed with; nothing in folders that are older than the record."""
    if not folder.arithmetic.is_file():
        return []
    try:
        return [
            Arithmetic(**{key: value for key, value in one.items() if key != "digest"})
            for one in json.loads(folder.arithmetic.read_text())["workers"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(
            f"{folder.arithmetic} is damaged: {str(error).splitlines()[0]}",
            todo="bring it back from a copy; or move it away: then nothing is known of how earlier rows were rounded",
        ) from None


def compare(folder: RunFolder, workers: Collection[Arithmetic], say: Callable[[str], None]) -> None:
    """Hold what this launch's workers compute with against each other and the rows that are there, and record it.

    `say` is told where rows come from several kinds of processor or release. Raises StudyError where the environment
    of workers differs: that is a machine's setting, and it would mix rows of another rounding.
    """
    known, now = recorded(folder), _ordered(workers)
    for one in now:
        for other in known or now:
            if one.environment != other.environment:
                raise _other_environment(folder, one, other, bool(known))
    new = [one for one in now if one not in known]
    if new:
        written = [{**asdict(one), "digest": one.digest} for one in (*known, *new)]
        folder.write_json(folder.arithmetic, {"workers": written})
    if known and new:
        say(f"rows of this launch may be rounded otherwise than those that are there: {_listed(new)}; before: "
            f"{_listed(known)}; rates agree within their intervals, and parts record which is which")  # fmt: skip
    elif len(new) > 1:
        say(f"workers compute on several kinds of processor, which may round differently: {_listed(new)}")


def _other_environment(folder: RunFolder, one: Arithmetic, other: Arithmetic, earlier: bool) -> StudyError:
    changed = sorted(name for name in {**one.environment, **other.environment}
                     if one.environment.get(name) != other.environment.get(name))  # fmt: skip
    here, there = (
        ", ".join(f"{name}={held.environment[name]}" if name in held.environment else f"no {name}" for name in changed)
        for held in (one, other)
    )
    whose = f"the rows in {folder.path} were made with {there}" if earlier else f"another has {there}"
    return StudyError(
        f"a worker ({one.processor}) has {here} in its environment, and {whose}: they round differently",
        accepted="the same of these variables for all workers and all launches of a study",
        todo=f"set or unset {', '.join(changed)} on every machine as it was, or launch into a new folder with --output",
    )


def _listed(found: Iterable[Arithmetic]) -> str:
    return "; ".join(dict.fromkeys(map(str, found)))


def _ordered(found: Iterable[Arithmetic]) -> list[Arithmetic]:
    return sorted(found, key=lambda one: (one.processor, one.digest))
