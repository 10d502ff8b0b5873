"""What a study of adversarial transfer is and what it computes. Nothing in here imports Ray."""

__version__ = "0.1.0"
