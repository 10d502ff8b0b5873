"""Locate, download and read weights files, and draw random weights."""
