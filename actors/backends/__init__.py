"""The backends, which run actors on Ray, in this process, or on simulated machines."""
