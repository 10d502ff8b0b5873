"""Makes the tables of a run: transfer matrices for the terminal, and tables in the layout of papers."""
