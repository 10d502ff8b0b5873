"""The name of the GPU or processor that computes results."""

from __future__ import annotations

import platform
from pathlib import Path

_CPUS = Path("/proc/cpuinfo")


def hardware(device: str) -> str:
    """Return the name of a torch device's GPU or processor, such as `NVIDIA H100 80GB HBM3`."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return processor(_CPUS.read_text() if _CPUS.is_file() else "")


def processor(info: str) -> str:
    """Return the processor's name in the text of /proc/cpuinfo, or Python's name of it."""
    for line in info.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or platform.machine()
