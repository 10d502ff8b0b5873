"""A board: runs of one protocol side by side, and the card of a protocol."""
