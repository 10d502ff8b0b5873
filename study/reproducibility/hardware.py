"""What results are computed on, by name."""

from __future__ import annotations

import platform
from pathlib import Path

_CPUS = Path("/proc/cpuinfo")


def hardware(device: str) -> str:
    """The GPU or the processor behind a torch device, such as `NVIDIA H100 80GB HBM3`."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return processor(_CPUS.read_text() if _CPUS.is_file() else "")


def processor(info: str) -> str:
    """The processor that the text of /proc/cpuinfo names, or what Python knows of it."""
    for line in info.splitlines():
        name, _, said = line.partition(":")
        if name.strip() == "model name" and said.strip():
            return said.strip()
    return platform.processor() or platform.machine()
