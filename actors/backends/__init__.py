"""Runs actors: on Ray, in this process, or on simulated machines; and ends a local Ray."""
