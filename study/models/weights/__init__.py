"""Weights: locate, download and read their files; random weights."""
