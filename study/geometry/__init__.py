"""Probes of the geometry of models: cosines between gradients, and predictions on lines and planes through an image."""
