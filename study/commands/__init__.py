"""What each command of the command line does and prints, a file for each."""
