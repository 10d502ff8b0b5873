"""Machines, cores, GPUs and memory: how many workers fit, and where."""
