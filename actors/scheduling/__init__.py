"""Gives tasks to actors, repeats failed ones, and replaces actors that die or fail."""
