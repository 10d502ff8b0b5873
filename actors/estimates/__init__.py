"""`study plan` and `study profile`: how much work a spec has, and how long it takes."""
