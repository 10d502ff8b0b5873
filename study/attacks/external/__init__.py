"""External attacks: whole attacks from a library, a checkout or the user's own file, which a spec names."""
