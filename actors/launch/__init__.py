"""`study launch`: from a spec to a finished run folder."""
