"""What fixes a float result to the last bit on one kind of processor: thread count and kernels."""

from __future__ import annotations


def fix(threads: int) -> None:
    """Give this process `threads` threads and deterministic full-precision kernels, whatever the machine has."""
    import torch

    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
