"""`study launch`: prepare, select, execute, summarise."""
