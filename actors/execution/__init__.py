"""The driver of a study: attack runs, the clean pass, and probes."""
