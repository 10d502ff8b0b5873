"""Which work goes to which actor, and what is done when one fails."""
