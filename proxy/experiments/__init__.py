"""A/B experiments: assignment of units to arms, recording, and statistics. They do not depend on routes."""
