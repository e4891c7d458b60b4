"""Plans one request and converts its reply. It does not know routes or experiments."""
