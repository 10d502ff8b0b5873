"""Carries work out: attack runs, clean predictions and probes, through one loop."""
