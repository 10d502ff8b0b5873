"""Runs studies: launches, schedules and executes their work. All code that uses Ray is in this package."""
