"""The steps of `benchmarks/gpu.py`, one file for each question, and the code that they share."""
