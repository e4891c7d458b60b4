"""Plans one request and converts its reply. It does not depend on routes or experiments."""
