"""Executes all work on images (attack runs, clean predictions and probes) with one loop."""
