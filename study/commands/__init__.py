"""The commands that need no Ray: one file for each."""
