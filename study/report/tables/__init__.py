"""The tables of a run: transfer matrices, tables in the layout of papers, and the formats of files."""
