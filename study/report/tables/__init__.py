"""Tables of a run: transfer matrices, the papers' layouts, and the formats they are written in."""
