"""Storage of runs: paths, local folders and S3, the lease that admits one driver, the journal of compaction."""
