"""The events of a running study as data, the observers that receive them, the state of a run, and repairs."""
