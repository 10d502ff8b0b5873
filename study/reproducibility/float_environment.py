"""What influences the rounding of floats, and is not set in the spec: processor, libraries, environment variables.

Every worker reads these influences. The run folder and every Parquet file of rows record them. Every launch compares
the influences of its own workers with this record.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from study.errors import StudyError
from study.reproducibility.hardware import driver, gpu_capability, hardware
from study.reproducibility.hashing import digest
from study.storage.run_folder import RunFolder

_VARIABLES = re.compile(
    r"ATEN_CPU_CAPABILITY|(ONEDNN|DNNL|MKLDNN)_(MAX_CPU_ISA|CPU_ISA_HINTS|DEFAULT_FPMATH_MODE)"
    r"|MKL_(CBWR|ENABLE_INSTRUCTIONS|DEBUG_CPU_TYPE|DYNAMIC|VML_MODE|BLAS_MODE)|OPENBLAS_CORETYPE"
    r"|NVIDIA_TF32_OVERRIDE|TORCH_ALLOW_TF32_CUBLAS_OVERRIDE|TORCH_CUDNN_V8_API_\w+|TORCH_BLAS_PREFER_\w+"
    r"|CUBLAS_WORKSPACE_CONFIG|CUBLASLT_WORKSPACE_SIZE|CUBLAS_EMULAT\w+|PYTORCH_TUNABLEOP_(ENABLED|TUNING)"
    r"|TORCHINDUCTOR_(MAX_AUTOTUNE\w*|FREEZING|EMULATE_\w+|FALLBACK_RANDOM)|DISABLE_ADDMM_CUDA_LT"
)
"""Matches the names of environment variables that change rounding. Variables for numbers of threads are missing here,
because the spec sets these numbers."""

_OF_GPUS = re.compile(r"NVIDIA_\w+|TORCH_ALLOW_TF32_\w+|TORCH_CUDNN_\w+|CUBLAS\w+|DISABLE_ADDMM_CUDA_LT")
"""Matches the names of the variables in `_VARIABLES` that have no effect on a CPU."""

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow")
_LIBRARIES = {"mkl": r"Math Kernel Library Version (\S+)", "onednn": r"MKL-DNN (v\S+)|oneDNN (v\S+)"}


@dataclass(frozen=True)
class Arithmetic:
    """Everything outside the spec that determines how a worker rounds floats.

    Attributes:
        processor: The name of the GPU that computes, or of the CPU if no GPU computes.
        capability: The instruction set of PyTorch's CPU kernels. For a GPU, its compute capability and its number of
            multiprocessors come first.
        releases: The versions of the computing libraries, by name. On a GPU, also those of CUDA, cuDNN and the driver.
        environment: The environment variables that change the libraries' choice of kernels, with their values.
    """

    processor: str
    capability: str
    releases: Mapping[str, str] = field(hash=False)
    environment: Mapping[str, str] = field(hash=False)

    @property
    def digest(self) -> str:
        """The first 12 digits of the SHA-256 of all attributes."""
        return digest(asdict(self))[:12]

    @property
    def on_gpu(self) -> bool:
        """Whether the worker computes on a GPU."""
        return "cuda" in self.releases

    @property
    def device(self) -> str:
        """The kind of the device: the name of a GPU, or `a processor` for every CPU.

        All CPUs are one kind, because a study may continue on another CPU.
        """
        return self.processor if self.on_gpu else "a processor"

    def __str__(self) -> str:
        libraries = [f"{name} {self.releases[name]}" for name in ("cuda", "cudnn", "driver") if name in self.releases]
        given = [f"{name}={value}" for name, value in self.environment.items()]
        shown = [f"torch {self.releases.get('torch', 'unknown')}", *libraries, *given]
        return f"{self.processor} ({self.capability}), {', '.join(shown)}"


def here(device: str) -> Arithmetic:
    """Return the arithmetic of this process on a torch device: everything that determines how floats are rounded."""
    import torch

    built = torch.__config__.show()
    found = {name: re.search(pattern, built) for name, pattern in _LIBRARIES.items()}
    libraries = {name: next(filter(None, match.groups())) for name, match in found.items() if match}
    capability, on_gpu = torch.backends.cpu.get_cpu_capability(), torch.device(device).type == "cuda"
    if on_gpu:
        capability = f"{gpu_capability(device)}, {capability}"
        libraries |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}  # type: ignore[no-untyped-call]
        libraries |= {} if (release := driver()) is None else {"driver": release}
    installed = {name: version for name in _PACKAGES if (version := _version(name)) is not None}
    variables = {name: value for name, value in sorted(os.environ.items()) if _VARIABLES.fullmatch(name) and value}
    return _relevant(Arithmetic(hardware(device), capability, dict(sorted((installed | libraries).items())), variables))


def _relevant(found: Arithmetic) -> Arithmetic:
    """Return the arithmetic `found` without the environment variables that have no effect on its device."""
    if found.on_gpu:
        return found
    return replace(
        found, environment={name: value for name, value in found.environment.items() if not _OF_GPUS.fullmatch(name)}
    )


def _version(package: str) -> str | None:
    try:
        found: str = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
    return found


def text(workers: Iterable[Arithmetic]) -> str:
    """Return the arithmetic of all workers as canonical JSON, for the metadata of a Parquet file of rows."""
    return json.dumps([asdict(one) for one in _ordered(workers)], sort_keys=True, separators=(",", ":"))


def recorded(folder: RunFolder) -> list[Arithmetic]:
    """Return the recorded arithmetic (what determines rounding) of earlier launches' workers; [] without a record.

    Raises StudyError if the record is damaged.
    """
    if not folder.arithmetic.is_file():
        return []
    try:
        return [
            _relevant(Arithmetic(**{key: value for key, value in one.items() if key != "digest"}))
            for one in json.loads(folder.arithmetic.read_text())["workers"]
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StudyError(
            f"{folder.arithmetic} is damaged: {str(error).splitlines()[0]}",
            todo="restore it from a copy; or move it away, and lose the record of how earlier rows were rounded",
        ) from None


def compare(
    folder: RunFolder, workers: Collection[Arithmetic], say: Callable[[str], None], *, other_devices: bool = False
) -> None:
    """Compare the arithmetic (what determines rounding) of this launch's workers with earlier launches, and record it.

    The workers of this launch are also compared with each other. Calls `say` if rows come from several processors, GPUs
    or library versions. Raises StudyError if environment variables that change rounding differ between workers or
    launches, because the rows would be rounded differently. If `other_devices` is False, also raises StudyError if a
    worker computes on a device that no earlier launch used: another GPU, or a CPU if all earlier launches used GPUs.
    """
    known, now = recorded(folder), _ordered(workers)
    devices = {one.device for one in known}
    new_devices = [one for one in now if known and one.device not in devices]
    if new_devices and not other_devices:
        raise _another_device(folder, new_devices[0], known)
    for one in now:
        for other in (*known, *now):
            if one.on_gpu == other.on_gpu and one.environment != other.environment:
                raise _other_environment(folder, one, other, other in known)
    new = [one for one in now if one not in known]
    if new:
        written = [{**asdict(one), "digest": one.digest} for one in (*known, *new)]
        folder.write_json(folder.arithmetic, {"workers": written})
    if known and new:
        say(f"this launch may round differently than earlier ones: {_listed(new)}; before: "
            f"{_listed(known)}; rates agree within their intervals, and every Parquet file records its "
            "processor and libraries")  # fmt: skip
    elif len(new) > 1:
        say(f"workers have several kinds of processors or libraries, which may round differently: {_listed(new)}")


def _another_device(folder: RunFolder, one: Arithmetic, known: Sequence[Arithmetic]) -> StudyError:
    before = ", ".join(sorted({other.device for other in known}))
    return StudyError(
        f"the rows in {folder.path} were computed on {before}, but a worker of this launch has {one.processor}, which "
        "rounds differently: the results would depend on when the study was interrupted",
        accepted=f"{before}; or --other-devices, which mixes rows: rates agree within their intervals, and every "
        "Parquet file records its device",
        todo="add --other-devices, go on with devices of the same kind, or launch into a new folder with --output",
    )


def _other_environment(folder: RunFolder, one: Arithmetic, other: Arithmetic, earlier: bool) -> StudyError:
    changed = sorted(name for name in {**one.environment, **other.environment}
                     if one.environment.get(name) != other.environment.get(name))  # fmt: skip
    here, there = (
        ", ".join(f"{name}={held.environment[name]}" if name in held.environment else f"no {name}" for name in changed)
        for held in (one, other)
    )
    whose = f"the rows in {folder.path} were computed with {there}" if earlier else f"another worker has {there}"
    return StudyError(
        f"a worker ({one.processor}) has {here} in its environment, but {whose}: this changes rounding",
        accepted="equal values of these variables for all workers and all launches of a study",
        todo=f"set or unset {', '.join(changed)} on every machine as before, or launch into a new folder with --output",
    )


def _listed(found: Iterable[Arithmetic]) -> str:
    return "; ".join(dict.fromkeys(map(str, found)))


def _ordered(found: Iterable[Arithmetic]) -> list[Arithmetic]:
    return sorted(found, key=lambda one: (one.processor, one.digest))
