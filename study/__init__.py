"""Studies of adversarial transfer: specs, attacks, models, results. Nothing in this package imports Ray."""

__version__ = "0.1.0"
