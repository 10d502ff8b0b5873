"""The commands that need no Ray, a file for each command."""
