"""Compares the rows of a run with papers: with single published numbers, and with their claims (findings)."""
