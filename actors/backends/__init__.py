"""Where actors run: Ray, this process, or simulated machines."""
