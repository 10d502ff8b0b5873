"""Where a study runs. Everything that knows Ray lives here."""
