"""Defences in front of a target model: they change finished images, or let the target vote on several versions."""

# The registry of components imports attacks and defences. Attacks must be imported first.
import study.attacks  # noqa: F401
