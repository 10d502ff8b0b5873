"""Backends run actors on Ray, in this process, or on simulated machines. One of them starts and ends a local Ray."""
