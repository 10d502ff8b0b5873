"""`study report`: a run as one HTML page."""
