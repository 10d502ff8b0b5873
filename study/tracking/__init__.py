"""Live tracking: the driver passes events to a process that logs them to Weights & Biases."""
