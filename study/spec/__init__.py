"""The spec of a study in YAML: the schema, reading with line numbers, validation and its messages."""
