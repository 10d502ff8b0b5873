"""The HTML report: data for its sections, and the templates that lay them out."""
