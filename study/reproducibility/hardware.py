"""The name of the GPU or processor that computes results, and the release of the GPU's driver."""

from __future__ import annotations

import platform
import re
from pathlib import Path

_CPUS = Path("/proc/cpuinfo")
_DRIVER = Path("/proc/driver/nvidia/version")


def hardware(device: str) -> str:
    """Return the name of a torch device's GPU or processor, such as `NVIDIA H100 80GB HBM3`."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return processor(_CPUS.read_text() if _CPUS.is_file() else "")


def gpu_capability(device: str) -> str:
    """Return a GPU's compute capability and its number of multiprocessors, which decide how kernels cut their sums."""
    import torch

    found = torch.cuda.get_device_properties(device)
    return f"sm_{found.major}{found.minor}, {found.multi_processor_count} multiprocessors"


def driver() -> str | None:
    """Return the release of NVIDIA's driver, such as `550.54.15`; None where it cannot be read."""
    try:
        return driver_release(_DRIVER.read_text())
    except OSError:
        return None


def driver_release(info: str) -> str | None:
    """Return the release in the text of /proc/driver/nvidia/version."""
    found = re.search(r"^NVRM version:.*?\s(\d+\.\d+(?:\.\d+)*)\s", info, re.MULTILINE)
    return found.group(1) if found else None


def processor(info: str) -> str:
    """Return the processor's name in the text of /proc/cpuinfo, or Python's name of it."""
    for line in info.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or platform.machine()
