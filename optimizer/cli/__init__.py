"""Parts of the command line: arguments, progress, tables, and the logic of the commands diff, doctor and harvest."""
