"""The command line of drpo-index: arguments, output and progress."""
