"""Measures of how visible a perturbation is. They compare an adversarial image with its clean image."""
