"""Child processes, signals, and the end of a command."""
