"""What runs in an actor, and what it is configured with."""
