"""The spec of a study, a YAML file: its schema, its reader, which keeps line numbers, its validation and its errors."""
