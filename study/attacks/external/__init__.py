"""Somebody else's whole attack, by name: from a library, a checkout, or the user's own file."""
