"""Makes results reproducible bit for bit: keyed random numbers, digests, numerics, hardware, users' source files."""
