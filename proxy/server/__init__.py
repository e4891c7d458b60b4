"""Starts, supervises, reloads and stops the server's processes. It does not depend on the content of requests."""
