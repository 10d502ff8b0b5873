"""Keyed random numbers, hashing, and what else decides the last bit of a result."""
