"""Runs all work on images: attack runs, clean predictions and probes, through the same loop."""
