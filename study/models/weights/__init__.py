"""Weights: which file, where it is, how it is downloaded and read."""
