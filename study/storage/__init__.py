"""Stores runs in local folders or S3, with a lease that lets only one driver write, and the journal of compactions."""
