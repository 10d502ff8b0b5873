"""External attacks, which run as a whole and are given by name: from a library, a checkout, or the user's own file."""
