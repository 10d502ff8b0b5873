"""Everything that makes results repeat bit by bit: keyed random numbers, digests, numerics, hardware."""
