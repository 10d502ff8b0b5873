"""Stores runs in local folders or S3, lets only one driver write to a run, and keeps the journal of compactions."""
