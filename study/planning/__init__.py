"""Planning of a study: attack runs and units with ids, resuming a run folder, and what a changed spec adds."""
