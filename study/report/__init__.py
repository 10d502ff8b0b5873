"""Makes tables, figures and the HTML page from finished rows."""
