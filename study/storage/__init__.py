"""Where runs lie: local folders and S3, a lease that lets one driver in, a journal."""
