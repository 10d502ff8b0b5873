"""The project's own components. Importing this package registers them; none of its modules imports torch at once."""

from study.attacks.components import (
    admix,
    directions,
    distance_penalty,
    diversity,
    ensembles,
    kernel,
    momentum,
    nesterov,
    objectives,
    scales,
    skip_gradient,
    smoothing,
    starts,
    variance,
)

__all__ = [
    "admix",
    "directions",
    "distance_penalty",
    "diversity",
    "ensembles",
    "kernel",
    "momentum",
    "nesterov",
    "objectives",
    "scales",
    "skip_gradient",
    "smoothing",
    "starts",
    "variance",
]
