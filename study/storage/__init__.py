"""Where runs lie: the paths of a run, local folders and S3, the lease that lets one driver in, the journal."""
