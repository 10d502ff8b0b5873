"""The workers inside actors, their configuration, and the Ray actors that wrap the workers."""
