"""Turns a spec into attack runs and units with ids, resumes a run folder, and finds what a changed spec adds."""
