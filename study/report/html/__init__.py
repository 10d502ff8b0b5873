"""Makes the HTML report: the data of its sections, and the templates for the page."""
