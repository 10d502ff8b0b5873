"""From a gradient to a step direction: kernel, momentum, then the step rule. All state is kept per image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from study.attacks.kernel import convolve
from study.attacks.recipe import Attack

_BETA1, _BETA2, _ADAM_EPSILON = 0.9, 0.999, 1e-8


def l2_normalised(gradient: Tensor) -> Tensor:
    """Divide each image's gradient (N, C, H, W) by its L2 norm. A zero gradient stays zero."""
    # Divide by the largest entry first: squares of a saturated model's gradient underflow in float32.
    peak = gradient.abs().amax((1, 2, 3), keepdim=True)
    scaled = gradient / torch.where(peak > 0, peak, 1)
    norm = torch.linalg.vector_norm(scaled, 2, dim=(1, 2, 3), keepdim=True)
    return scaled / torch.where(norm > 0, norm, 1)


class Stepper:
    """Turns the gradients of successive steps into step directions of size 1.

    - kernel: g <- W * g (Dong et al. 2019, arXiv:1904.02884);
    - momentum m > 0: g <- m g' + grad / mean |grad| (Dong et al. 2018, arXiv:1710.06081, equation 6). The equation has
      the L1 norm, the authors' code the mean, which is smaller by the factor of the number of pixels. The factor
      changes no sign or l2 step, but it changes Nesterov's look-ahead;
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
        """Return the look-ahead size * m * g (Lin et al. 2020, arXiv:1908.06281, equation 6); None if there is none."""
        if not self._attack.nesterov or self._momentum is None:
            return None
        return size * self._attack.momentum * self._momentum

    def direction(self, gradient: Tensor) -> Tensor:
        """Return the step direction, float (N, C, H, W), for the gradient of the loss, of the same shape."""
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
            return math.sqrt(gradient[0].numel()) * l2_normalised(gradient)
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
