"""Starts child processes, handles signals, and ends commands."""
