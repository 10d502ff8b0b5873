"""Published numbers, and their comparison with a run's rows: cell by cell, and as findings."""
