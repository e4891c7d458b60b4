"""Turns recorded feedback into candidate examples, training rows and preference pairs, without private data."""
