"""What a person writes in YAML: the schema, reading with line numbers, validation and its messages."""
