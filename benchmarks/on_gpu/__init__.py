"""What `benchmarks/gpu.py` checks and measures: a file for each question, and what they share."""
