"""Finds the GPU or CPU that computes results, and its name, memory and driver."""

from __future__ import annotations

import platform
import re
from pathlib import Path

from study.errors import StudyError
from study.spec.run_options import DeviceChoice

_CPUS = Path("/proc/cpuinfo")
_DRIVER = Path("/proc/driver/nvidia/version")


def gpu_available() -> bool:
    """Return whether torch can compute on a GPU in this process."""
    import torch

    return torch.cuda.is_available()


def device_here(wanted: DeviceChoice = "auto") -> str:
    """Return the torch device for this process: `cuda:0` if a GPU is available and `wanted` allows it, else `cpu`.

    Raises StudyError if `wanted` is `gpu` and no GPU is available.
    """
    if wanted == "cpu":
        return "cpu"
    if gpu_available():
        return "cuda:0"
    if wanted == "gpu":
        raise StudyError(
            "run.device is gpu, but torch finds no usable GPU on this machine",
            todo="set run.device to auto or cpu, or check the driver with nvidia-smi",
        )
    return "cpu"


def gpu_memory(device: str) -> float | None:
    """Return the total memory of a GPU, or of a MIG instance of a GPU, in bytes; None on a CPU."""
    import torch

    if torch.device(device).type != "cuda":
        return None
    return float(torch.cuda.get_device_properties(device).total_memory)


def free_gpu_memory(device: str) -> float:
    """Return the free memory of a GPU in bytes."""
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return float(free)


def hardware(device: str) -> str:
    """Return the name of a torch device's GPU or processor, such as `NVIDIA H100 80GB HBM3`."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return processor_here()


def processor_here() -> str:
    """Return the name of this machine's processor."""
    return processor(_CPUS.read_text() if _CPUS.is_file() else "")


def gpu_capability(device: str) -> str:
    """Return a GPU's compute capability and number of multiprocessors, which decide in which order kernels sum."""
    import torch

    found = torch.cuda.get_device_properties(device)
    return f"sm_{found.major}{found.minor}, {found.multi_processor_count} multiprocessors"


def driver() -> str | None:
    """Return the release of NVIDIA's driver, such as `550.54.15`; None if it cannot be read."""
    try:
        return driver_release(_DRIVER.read_text())
    except OSError:
        return None


def driver_release(info: str) -> str | None:
    """Return the driver's release from `info`, the text of /proc/driver/nvidia/version; None if it has no release."""
    found = re.search(r"^NVRM version:.*?\s(\d+\.\d+(?:\.\d+)*)\s", info, re.MULTILINE)
    return found.group(1) if found else None


def processor(info: str) -> str:
    """Return the processor's name from `info` (the text of /proc/cpuinfo), or else from Python's `platform` module."""
    for line in info.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or platform.machine()
