"""`study plan` and `study profile`: how long a study takes, predicted and measured."""
