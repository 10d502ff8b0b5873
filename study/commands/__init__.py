"""The commands that need no Ray, a file each: what the command does and prints."""
