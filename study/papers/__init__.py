"""Published numbers, and a run's rows held against them: comparison and findings."""
