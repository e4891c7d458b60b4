"""Runs A/B experiments: assigns units to arms, records requests and computes reports. It does not depend on routes."""
