"""The command line of drpo-index: arguments, what is printed, and progress."""
