"""Stores runs: paths, local folders and S3, the lease that lets only one driver write, the journal of compaction."""
