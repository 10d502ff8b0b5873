"""The commands `study plan` and `study profile`: how much work a spec has, and how long the work takes."""
