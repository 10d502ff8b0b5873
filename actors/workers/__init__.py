"""The workers inside actors, their configuration, and the Ray actors around them."""
