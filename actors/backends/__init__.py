"""Backends run actors on Ray, in this process, or on simulated machines. The Ray backend can start a local Ray."""
