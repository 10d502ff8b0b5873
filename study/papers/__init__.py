"""Published numbers, and their comparison with the rows of a run: cell by cell, and as findings."""
