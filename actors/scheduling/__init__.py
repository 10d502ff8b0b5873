"""Gives tasks to actors, repeats failed tasks, and replaces actors that die or fail."""
