"""The spec of a study, a YAML file: its schema, reading with line numbers, validation and the messages about errors."""
