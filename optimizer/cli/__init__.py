"""The command line of drpo-optimizer: arguments, progress, tables, checks before a run, and the smaller commands."""
