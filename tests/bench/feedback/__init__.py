"""Benches of the commands that use the feedback of users."""
