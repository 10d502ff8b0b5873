"""What happens in a running study, as data: observers, the state of a run, repairs."""
