"""Makes tables, figures and HTML pages from the rows of a run."""
