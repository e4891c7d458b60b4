"""Benches of what is made of the feedback of users."""
