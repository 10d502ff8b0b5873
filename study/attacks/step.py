"""From gradients to a direction: kernel, momentum, then a step rule. Each keeps its state per image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from study.attacks.kernel import convolve
from study.attacks.recipe import Attack

_BETA1, _BETA2, _ADAM_EPSILON = 0.9, 0.999, 1e-8


def unit(gradient: Tensor) -> Tensor:
    """Each image's gradient (N, C, H, W) divided by its L2 norm; a zero gradient stays zero."""
    # Divided by its largest entry first: squares of a saturated model's gradient underflow float32.
    peak = gradient.abs().amax((1, 2, 3), keepdim=True)
    scaled = gradient / torch.where(peak > 0, peak, 1)
    norm = torch.linalg.vector_norm(scaled, 2, dim=(1, 2, 3), keepdim=True)
    return scaled / torch.where(norm > 0, norm, 1)


class Stepper:
    """Turns one stream of image gradients into directions of unit size.

    - kernel: g <- W * g (Dong et al. 2019);
    - momentum m > 0: g <- m g' + grad / mean |grad| (Dong et al. 2018, equation 6, whose L1 norm differs from the mean
      by the number of pixels: a factor that sign and l2 steps do not see, and Nesterov's look-ahead does. The mean is
      what the methods' authors compute);
    - sign: sgn(g); l2: g scaled to an RMSD of 1;
    - adam: Kingma and Ba 2015, algorithm 1, with their betas and epsilon, for a learning rate of 1.
    """

    def __init__(self, attack: Attack) -> None:
        self._attack = attack
        self._momentum: Tensor | None = None
        self._first: Tensor | None = None
        self._second: Tensor | None = None
        self._count = 0

    def ahead(self, size: float | Tensor) -> Tensor | None:
        """Nesterov's look-ahead, size * m * g (Lin et al. 2020, arXiv:1908.06281, equation 6), if there is one."""
        if not self._attack.nesterov or self._momentum is None:
            return None
        return size * self._attack.momentum * self._momentum

    def direction(self, gradient: Tensor) -> Tensor:
        """The direction, float (N, C, H, W), for a gradient of that shape that points to more gain."""
        if self._attack.kernel is not None:
            gradient = convolve(gradient, self._attack.kernel)
        if self._attack.momentum:
            mean = torch.linalg.vector_norm(gradient, 1, dim=(1, 2, 3), keepdim=True) / gradient[0].numel()
            gradient = gradient / torch.where(mean > 0, mean, 1)
            if self._momentum is not None:
                gradient += self._momentum.mul_(self._attack.momentum)
            self._momentum = gradient
        if self._attack.step == "sign":
            return gradient.sign()
        if self._attack.step == "l2":
            return math.sqrt(gradient[0].numel()) * unit(gradient)
        return self._adam(gradient)

    def _adam(self, gradient: Tensor) -> Tensor:
        self._count += 1
        if self._first is None or self._second is None:
            self._first, self._second = torch.zeros_like(gradient), torch.zeros_like(gradient)
        self._first = _BETA1 * self._first + (1 - _BETA1) * gradient
        self._second = _BETA2 * self._second + (1 - _BETA2) * gradient.square()
        first = self._first / (1 - _BETA1**self._count)
        second = self._second / (1 - _BETA2**self._count)
        return first / (second.sqrt() + _ADAM_EPSILON)
