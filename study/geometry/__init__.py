"""Geometry of models: what gradients have in common, and what models say on lines and planes through an image."""
