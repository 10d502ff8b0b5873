"""Rows, parts and scans: what a study leaves behind."""
