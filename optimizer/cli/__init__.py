"""The command line of drpo-optimizer: arguments, progress, tables and the checks before a run."""
