"""Tables, figures and the HTML page from finished rows."""
