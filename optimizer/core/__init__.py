"""Shared by all packages of the optimizer: candidates, settings, the journal, budgets and errors."""
