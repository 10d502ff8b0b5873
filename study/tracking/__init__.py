"""A study's page on Weights & Biases: what the driver tells, and the process that carries it there."""
