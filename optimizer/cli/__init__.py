"""Parts of the command line: arguments, progress, tables, and the logic of some commands, such as harvest."""
