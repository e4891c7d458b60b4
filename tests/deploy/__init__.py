"""What deploy/ holds is checked here with the programs that it is for, as far as one machine can."""
