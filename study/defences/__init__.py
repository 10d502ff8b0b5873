"""Defences: what stands in front of a target model, and changes finished images or lets the target vote."""

# Attacks and defences share the registry of components, which imports both: attacks come first, whichever is asked for.
import study.attacks  # noqa: F401
